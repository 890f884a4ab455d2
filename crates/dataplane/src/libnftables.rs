//! The five functions of libnftables that run a text of commands.
//!
//! In the process instead of through `nft`: twenty times faster, and nothing to find in `$PATH`. The library is opened
//! when first needed, so that a machine without it gets an error that names it rather than a daemon that does not start.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    sync::OnceLock,
};

use parking_lot::Mutex;

const LIBRARY: &CStr = c"libnftables.so.1";

struct Library {
    ctx_new: unsafe extern "C" fn(u32) -> *mut c_void,
    ctx_free: unsafe extern "C" fn(*mut c_void),
    buffer_output: unsafe extern "C" fn(*mut c_void) -> c_int,
    buffer_error: unsafe extern "C" fn(*mut c_void) -> c_int,
    error_buffer: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    run_cmd: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
}

/// The parser has state of its own outside its contexts: one text at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `commands` as one transaction in the network namespace of this thread; the error is nft's own text.
pub(crate) fn run(commands: &str) -> Result<(), String> {
    static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
    let library = LOADED.get_or_init(load).as_ref().map_err(Clone::clone)?;
    let commands = CString::new(commands).map_err(|e| e.to_string())?;
    let _one = ONE_AT_A_TIME.lock();
    library.run(&commands)
}

impl Library {
    #[allow(unsafe_code, reason = "foreign functions")]
    fn run(&self, commands: &CStr) -> Result<(), String> {
        // SAFETY: signatures are those of nftables/libnftables.h; the context lives from `ctx_new` to `ctx_free`, the
        // error text is copied before that, and `commands` outlives the call.
        unsafe {
            let ctx = (self.ctx_new)(0);
            if ctx.is_null() {
                return Err("no context".into());
            }
            (self.buffer_output)(ctx);
            (self.buffer_error)(ctx);
            let rc = (self.run_cmd)(ctx, commands.as_ptr());
            let text = (self.error_buffer)(ctx);
            let text =
                if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().trim().to_owned() };
            (self.ctx_free)(ctx);
            if rc == 0 { Ok(()) } else { Err(text) }
        }
    }
}

#[allow(unsafe_code, reason = "foreign functions")]
fn load() -> Result<Library, String> {
    // SAFETY: opening a system library that has no initialiser of effect; it is never closed.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(format!("{} is not installed (Debian: libnftables1)", LIBRARY.to_string_lossy()));
    }
    // SAFETY: `handle` is open, and each symbol has the type of its field, by nftables/libnftables.h.
    unsafe {
        Ok(Library {
            ctx_new: symbol(handle, c"nft_ctx_new")?,
            ctx_free: symbol(handle, c"nft_ctx_free")?,
            buffer_output: symbol(handle, c"nft_ctx_buffer_output")?,
            buffer_error: symbol(handle, c"nft_ctx_buffer_error")?,
            error_buffer: symbol(handle, c"nft_ctx_get_error_buffer")?,
            run_cmd: symbol(handle, c"nft_run_cmd_from_buffer")?,
        })
    }
}

/// # Safety
/// `handle` is an open library, and `F` the function pointer type of its symbol `name`.
#[allow(unsafe_code, reason = "foreign functions")]
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: `handle` is open, `name` ends with a zero, and a found symbol is as wide as `F`.
    unsafe {
        let found = libc::dlsym(handle, name.as_ptr());
        if found.is_null() {
            return Err(format!("libnftables has no {}", name.to_string_lossy()));
        }
        Ok(std::mem::transmute_copy(&found))
    }
}
