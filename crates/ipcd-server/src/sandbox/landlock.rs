//! Landlock: no file, no TCP port, and no abstract socket or signal beyond this process, for
//! whatever gets past the filter of system calls.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetError, RulesetStatus, Scope,
};

use super::SandboxLayer;

/// The version that is asked for. Later ones restrict nothing that a worker has.
const WANTED: ABI = ABI::V6;

/// Restricts this process as far as the kernel can.
pub(super) fn restrict() -> SandboxLayer {
    match apply() {
        Ok(RestrictionStatus { ruleset, landlock, .. }) => layer(ruleset, landlock),
        Err(error) => SandboxLayer::Missing(format!("no landlock: {error}")),
    }
}

/// Takes all rights away that are known, and grants none.
fn apply() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?
        .restrict_self()
}

fn layer(ruleset: RulesetStatus, landlock: LandlockStatus) -> SandboxLayer {
    let wanted = WANTED as u32;
    match (ruleset, landlock) {
        (RulesetStatus::FullyEnforced, _) => SandboxLayer::On(format!("landlock ABI {wanted}")),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let abi = effective_abi as u32;
            let why = format!("landlock of this kernel has ABI {abi}, where {wanted} is wanted");
            SandboxLayer::Partly(format!("landlock ABI {abi}"), why)
        }
        (_, LandlockStatus::NotEnabled) => {
            SandboxLayer::Missing("no landlock: the kernel was started without it".into())
        }
        _ => SandboxLayer::Missing("no landlock: the kernel does not have it".into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::kill;
    use nix::unistd::getppid;

    use super::*;

    #[test]
    fn an_older_kernel_is_named() {
        let old = LandlockStatus::Available { effective_abi: ABI::V3, kernel_abi: None };
        let SandboxLayer::Partly(name, why) = layer(RulesetStatus::PartiallyEnforced, old) else {
            panic!("a part of it is in force");
        };
        assert_eq!(name, "landlock ABI 3");
        assert_eq!(why, "landlock of this kernel has ABI 3, where 6 is wanted");
        for none in [LandlockStatus::NotEnabled, LandlockStatus::NotImplemented] {
            let found = layer(RulesetStatus::NotEnforced, none);
            assert!(matches!(found, SandboxLayer::Missing(_)), "{found:?}");
        }
    }

    /// It confines a thread, so a test can try it without one of its own kind.
    #[test]
    fn what_it_forbids_fails() {
        let tried = std::thread::spawn(|| {
            let layer = restrict();
            let file = std::fs::File::open("/").map(drop);
            let port = std::net::TcpListener::bind("127.0.0.1:0").map(drop);
            let signal = kill(getppid(), None).map_err(std::io::Error::from);
            (layer, [file, port, signal].map(|tried| tried.is_err()))
        });
        match tried.join().unwrap() {
            (SandboxLayer::On(_), refused) => assert_eq!(refused, [true; 3]),
            // An older kernel gives less.
            (layer, _) => eprintln!("not tried: {layer:?}"),
        }
        assert!(std::fs::File::open("/").is_ok(), "this thread is not confined");
    }
}
