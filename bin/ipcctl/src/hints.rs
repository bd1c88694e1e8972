//! Advice for users: on filters in another broker's syntax, and on paths without permission.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access};

/// Advice on a filter that is valid, and yet looks like a mistake.
pub(crate) fn of_filter(filter: &str) -> Option<String> {
    let is_half = |word: &str| word.len() > 1 && word.contains(['*', '>']);
    let is_foreign = |word: &str| matches!(word, "#" | "+");
    let is_odd = filter.split('.').any(is_half) || filter.split(['.', '/']).any(is_foreign);
    is_odd.then(|| {
        let meant: Vec<&str> = filter.split(['.', '/']).map(intended_token).collect();
        format!(
            "{filter} matches only this exact subject: tokens are joined by dots, * matches one \
             whole token, and a final > matches the rest, as in {}",
            meant.join(".")
        )
    })
}

/// The token that was probably meant: MQTT has the wildcards `#` and `+`.
fn intended_token(word: &str) -> &str {
    match word {
        "#" => ">",
        "+" => "*",
        word if word.len() > 1 && word.contains(['*', '>']) => "*",
        word => word,
    }
}

/// The user that lacks permission for a path, and the owner, group and mode that keep it out.
pub(crate) fn of_denied(path: &Path) -> String {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or(uid.to_string(), |user| user.name);
    let mut advice = format!("user {user} has no permission");
    // A directory on the way may be closed, long before the path itself.
    let is_closed = |at: &&Path| access(*at, AccessFlags::X_OK) == Err(Errno::EACCES);
    let parents: Vec<&Path> = path.ancestors().skip(1).collect();
    let at = parents.into_iter().rev().find(is_closed).unwrap_or(path);
    if let Ok(found) = fs::metadata(at) {
        let owner = User::from_uid(Uid::from_raw(found.uid())).ok().flatten();
        let owner = owner.map_or(found.uid().to_string(), |user| user.name);
        let group = Group::from_gid(Gid::from_raw(found.gid())).ok().flatten();
        let group = group.map_or(found.gid().to_string(), |group| group.name);
        let (at, mode) = (at.display(), found.mode() & 0o7777);
        let _ = write!(advice, ": {at} has mode {mode:04o}, owner {owner} and group {group}");
    }
    advice + " (the listener's options mode= and group= grant it)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_other_brokers_are_remarked_on() {
        for (filter, meant) in [
            ("sensors/#", "sensors.>"),
            ("a/+", "a.*"),
            ("logs.web*", "logs.*"),
            ("a.#", "a.>"),
            ("+", "*"),
            ("logs.>x.y", "logs.*.y"),
        ] {
            let said = of_filter(filter).unwrap_or_default();
            assert!(said.starts_with(filter) && said.ends_with(meant), "{filter}: {said}");
        }
        for filter in ["logs.>", "*", ">", "a.*.b", "path/to/it", "a+b", "c#", "logs.web"] {
            assert_eq!(of_filter(filter), None, "{filter}");
        }
    }

    #[test]
    fn who_may_not_use_a_path_is_named_with_its_mode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = of_denied(file.path());
        assert!(said.contains("mode 0600, owner ") && said.starts_with("user "), "{said}");
    }
}
