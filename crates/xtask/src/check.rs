//! `cargo xtask check`: the code compiles for other targets.

use crate::steps::{self, Outcome, Workshop};
use crate::target::{OTHERS, STATIC};

pub(crate) fn run(shop: &mut Workshop, wanted: &[String]) -> Outcome {
    let known = || STATIC.iter().chain(&OTHERS);
    if let Some(unknown) = wanted.iter().find(|it| known().all(|target| target.triple != **it)) {
        let all: Vec<_> = known().map(|target| target.triple).collect();
        return Err(format!("{unknown} is none of {}", all.join(", ")));
    }
    for target in known() {
        if !wanted.is_empty() && wanted.iter().all(|it| it != target.triple) {
            continue;
        }
        match target.cargo(shop, "check") {
            Ok(mut command) => {
                let packages = target.packages.iter().flat_map(|package| ["-p", package]);
                steps::run(command.args(packages))?;
            }
            Err(why) => shop.skip(&format!("check for {}", target.triple), &why),
        }
    }
    Ok(())
}
