//! Rules for the names of peers and groups.

use crate::model::failure::Failure;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::limits::MAX_NAME;

/// Checks the name of a group.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    if !is_name(name) {
        let rule = format!(
            "invalid name: it needs 1 to {MAX_NAME} bytes, without control characters and spaces"
        );
        return Err((RefusalCode::BadSubject, rule));
    }
    Ok(())
}

/// Checks the name of a peer. A name must not look like an address or an id: `@7` always means the
/// peer with the id 7, even if another peer would like that name.
pub(crate) fn check_peer_name(name: &str) -> Result<(), Failure> {
    check_name(name)?;
    if !is_peer_name(name) {
        let why = format!(
            "invalid name {}: it looks like the id or the address of a peer; it must not begin with \
             @, and needs more than digits, dots and signs",
            name.escape_debug()
        );
        return Err((RefusalCode::BadSubject, why));
    }
    Ok(())
}

/// Whether the text is a name: of a group, or of a peer if it does not look like an address.
pub(crate) fn is_name(name: &str) -> bool {
    let is_good = |c: char| !c.is_control() && !c.is_whitespace();
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_good)
}

/// Whether a peer may have this name.
pub(crate) fn is_peer_name(name: &str) -> bool {
    // Text like 7, +7 or 1.5 would be mistaken for an id.
    let is_of_a_number = |c: char| c.is_numeric() || matches!(c, '.' | '+' | '-');
    is_name(name) && !name.starts_with('@') && !name.chars().all(is_of_a_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_is_called_like_an_id_or_an_address() {
        for good in ["a", "a7", "7a", "1e9", "ann@host", "_", "日本", "worker-1", "v1.2"] {
            assert!(is_peer_name(good), "{good}");
        }
        for bad in ["7", "007", "+7", "-7", "7.1", "7.", "@7", "@ann", "@", "٣", "７", "1.2.3.4"]
        {
            assert!(is_name(bad) && !is_peer_name(bad), "{bad}");
            let (code, why) = check_peer_name(bad).unwrap_err();
            assert!(code == RefusalCode::BadSubject && why.contains("looks like the id"), "{why}");
        }
        assert!(!is_peer_name("") && !is_peer_name("two words"));
    }
}
