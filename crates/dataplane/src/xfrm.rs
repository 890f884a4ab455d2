//! Whether the node has IPsec policies. Packets that they might concern must meet them in the node's stack.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};

use crate::{
    error::{Doing, NetResult},
    netns::Netns,
};

const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// Header, flags; then the first attribute: its header, and the numbers of policies in, out, forward.
const ATTRIBUTE: usize = HEADER + 4;
const COUNTS: usize = ATTRIBUTE + 4;

pub(crate) async fn has_policies(node: &Netns) -> NetResult<bool> {
    let asked = node.run(ask).await.and_then(|a| a);
    asked.doing(|| format!("ask for IPsec policies in {}", node.path().display()))
}

fn ask() -> io::Result<bool> {
    let mut socket = match Socket::new(NETLINK_XFRM) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(false), // a kernel without IPsec
        other => other?,
    };
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER + 4);
    request.extend((HEADER as u32 + 4).to_ne_bytes());
    request.extend(XFRM_MSG_GETSPDINFO.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 12]); // sequence, port, flags
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    counts(&answer).map(|counts| counts.iter().any(|n| *n > 0))
}

fn counts(answer: &[u8]) -> io::Result<[u32; 3]> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    let half = |at: usize| answer.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok()).map(u16::from_ne_bytes);
    if half(4) == Some(NLMSG_ERROR) {
        let code = word(HEADER).map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code));
    }
    let all = [0, 4, 8].map(|n| word(COUNTS + n).map(u32::from_ne_bytes));
    match (half(ATTRIBUTE + 2), all) {
        (Some(XFRMA_SPD_INFO), [Some(a), Some(b), Some(c)]) => Ok([a, b, c]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
