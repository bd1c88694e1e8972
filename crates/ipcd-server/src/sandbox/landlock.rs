//! Landlock: no file, no TCP port, and no abstract socket or signal beyond this process, for
//! whatever gets past the filter of system calls.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetError, RulesetStatus, Scope,
};

use super::Layer;

/// What is asked for; later ones have nothing that a worker could lose.
const WANTED: ABI = ABI::V6;

/// Restricts this process as far as the kernel can.
pub(super) fn restrict() -> Layer {
    match apply() {
        Ok(RestrictionStatus { ruleset, landlock, .. }) => layer(ruleset, landlock),
        Err(error) => Layer::Missing(format!("no landlock: {error}")),
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

fn layer(ruleset: RulesetStatus, landlock: LandlockStatus) -> Layer {
    let wanted = WANTED as u32;
    match (ruleset, landlock) {
        (RulesetStatus::FullyEnforced, _) => Layer::On(format!("landlock ABI {wanted}")),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let abi = effective_abi as u32;
            let why = format!("landlock of this kernel has ABI {abi}, where {wanted} is wanted");
            Layer::Partly(format!("landlock ABI {abi}"), why)
        }
        (_, LandlockStatus::NotEnabled) => {
            Layer::Missing("no landlock: the kernel was started without it".into())
        }
        _ => Layer::Missing("no landlock: the kernel does not have it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_is_named() {
        let old = LandlockStatus::Available { effective_abi: ABI::V3, kernel_abi: None };
        let Layer::Partly(name, why) = layer(RulesetStatus::PartiallyEnforced, old) else {
            panic!("a part of it is in force");
        };
        assert_eq!(name, "landlock ABI 3");
        assert!(why.contains("ABI 6"), "{why}");
        for none in [LandlockStatus::NotEnabled, LandlockStatus::NotImplemented] {
            let found = layer(RulesetStatus::NotEnforced, none);
            assert!(matches!(found, Layer::Missing(_)), "{found:?}");
        }
    }
}
