//! Signal names and numbers.

use nix::sys::signal::Signal;

use crate::{Result, RuntimeError};

/// `SIGTERM`, `term`, `15`, `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let bad = || RuntimeError::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| bad())? };
        return if (0..=30).contains(&offset) { Ok(34 + offset) } else { Err(bad()) };
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| bad())? };
        return if (-30..=0).contains(&offset) { Ok(64 + offset) } else { Err(bad()) };
    }
    format!("SIG{name}").parse::<Signal>().map(|s| s as i32).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("SIGTERM", 15), ("kill", 9), ("1", 1), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("usr1", 10)]
        {
            assert_eq!(parse(text).unwrap(), number);
        }
        for text in ["", "0", "65", "SIGNO", "RTMIN+31"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
