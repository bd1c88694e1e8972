//! A program for the kernel: from a system call's number by a binary tree to a few of its like, and
//! on to its verdict, or, where that depends on arguments, to a few checks of them.
//!
//! Why not seccompiler, which compares with one number after the other: when a filter is installed,
//! the kernel translates it to machine code and tries it out for each call that it has, to remember
//! what passes whatever its arguments (`seccomp_cache_prepare`). With a chain of seventy comparisons
//! and their rules that was a dear part of a child's birth.

use nix::libc::{SECCOMP_RET_ALLOW, c_int};
use seccompiler::sock_filter;

/// The verdict for a call.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum CallVerdict {
    /// This is returned whatever the arguments.
    Return(u32),
    /// They are checked: the block of this place says more.
    Look(usize),
}

/// Checks of arguments: what none of them ends is allowed at the end.
pub(super) struct ArgumentChecks {
    steps: Vec<sock_filter>,
    refuse: u32,
}

// linux/bpf_common.h, linux/filter.h.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The offsets in `seccomp_data` of the call's number, and of its arguments, 64 bits each.
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;
const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };

impl ArgumentChecks {
    /// Without any check yet; what fails one returns `refuse`.
    pub(super) fn new(refuse: u32) -> Self {
        Self { steps: Vec::new(), refuse }
    }

    /// Goes on if the lower half of an argument is one of these.
    pub(super) fn one_of(mut self, argument: u32, values: &[c_int]) -> Self {
        self.load(argument);
        for (at, value) in values.iter().enumerate() {
            self.jump(JUMP_IF_EQUAL, *value as u32, values.len() - at, 0);
        }
        self.refuse()
    }

    /// Allows the call if the lower half of an argument is one of these, and goes on if not.
    pub(super) fn or_one_of(mut self, argument: u32, values: &[c_int]) -> Self {
        self.load(argument);
        for (at, value) in values.iter().enumerate() {
            let left = values.len() - 1 - at;
            self.jump(JUMP_IF_EQUAL, *value as u32, left, usize::from(left == 0));
        }
        self.give(SECCOMP_RET_ALLOW)
    }

    /// Goes on if the lower half of an argument has none of these bits.
    pub(super) fn without(mut self, argument: u32, bits: c_int) -> Self {
        self.load(argument);
        self.steps.push(step(AND, bits as u32));
        self.jump(JUMP_IF_EQUAL, 0, 1, 0);
        self.refuse()
    }

    /// Goes on if all of an argument is zero.
    pub(super) fn zero(mut self, argument: u32) -> Self {
        for half in [0, 4] {
            self.steps.push(step(LOAD_WORD, ARGUMENTS + 8 * argument + half));
            self.jump(JUMP_IF_EQUAL, 0, 1, 0);
            self = self.refuse();
        }
        self
    }

    /// Goes on if the lower half of an argument is not in a range.
    pub(super) fn outside(mut self, argument: u32, first: u32, last: u32) -> Self {
        self.load(argument);
        self.jump(JUMP_IF_GREATER_OR_EQUAL, first, 0, 2);
        self.jump(JUMP_IF_GREATER, last, 1, 0);
        self.refuse()
    }

    fn load(&mut self, argument: u32) {
        self.steps.push(step(LOAD_WORD, ARGUMENTS + 8 * argument + LOW));
    }

    fn jump(&mut self, code: u16, k: u32, to: usize, otherwise: usize) {
        // Blocks have a handful of steps.
        let (jt, jf) = (to as u8, otherwise as u8);
        self.steps.push(sock_filter { code, jt, jf, k });
    }

    fn refuse(self) -> Self {
        let refuse = self.refuse;
        self.give(refuse)
    }

    fn give(mut self, verdict: u32) -> Self {
        self.steps.push(step(RETURN, verdict));
        self
    }
}

/// A program that returns the verdicts of these numbers, and `otherwise` for all other ones.
///
/// # Errors
/// If a branch is longer than a jump reaches.
pub(super) fn program(
    mut known: Vec<(u32, CallVerdict)>,
    otherwise: u32,
    blocks: Vec<ArgumentChecks>,
) -> Result<Vec<sock_filter>, String> {
    known.sort_unstable();
    let mut program = vec![step(LOAD_WORD, NUMBER)];
    program.extend(branch(&known, otherwise)?);
    let mut starts = Vec::new();
    for block in blocks {
        starts.push(program.len());
        program.extend(block.give(SECCOMP_RET_ALLOW).steps);
    }
    // A jump to a block has its place so far.
    for (at, step) in program.iter_mut().enumerate().filter(|(_, step)| step.code == JUMP) {
        step.k = (starts[step.k as usize] - at - 1) as u32;
    }
    Ok(program)
}

/// So many numbers are compared with one after the other: a step each, where a tree needs two.
const LEAF: usize = 8;

fn branch(known: &[(u32, CallVerdict)], otherwise: u32) -> Result<Vec<sock_filter>, String> {
    if known.len() <= LEAF {
        return Ok(leaf(known, otherwise));
    }
    let (below, above) = known.split_at(known.len() / 2);
    let mut steps = vec![step(JUMP_IF_GREATER_OR_EQUAL, above[0].0)];
    steps.extend(branch(below, otherwise)?);
    steps[0].jt = (steps.len() - 1)
        .try_into()
        .map_err(|_| "the filter knows more calls than a jump can pass over".to_owned())?;
    steps.extend(branch(above, otherwise)?);
    Ok(steps)
}

/// Comparisons, and behind them the verdicts that they jump to.
fn leaf(known: &[(u32, CallVerdict)], otherwise: u32) -> Vec<sock_filter> {
    let mut verdicts = vec![CallVerdict::Return(otherwise)];
    let mut steps = Vec::new();
    for (at, (number, verdict)) in known.iter().enumerate() {
        let place = verdicts.iter().position(|found| found == verdict).unwrap_or_else(|| {
            verdicts.push(verdict.clone());
            verdicts.len() - 1
        });
        let jt = (known.len() - 1 - at + place) as u8;
        steps.push(sock_filter { code: JUMP_IF_EQUAL, jt, jf: 0, k: *number });
    }
    steps.extend(verdicts.into_iter().map(|verdict| match verdict {
        CallVerdict::Return(verdict) => step(RETURN, verdict),
        CallVerdict::Look(place) => step(JUMP, place as u32),
    }));
    steps
}

fn step(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Does what the kernel does.
#[cfg(test)]
pub(super) fn run(program: &[sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
    let load = |at: u32| match at {
        NUMBER => number,
        // The architecture, which is looked at elsewhere.
        4 => panic!("the architecture"),
        at => {
            let word = arguments[((at - ARGUMENTS) / 8) as usize];
            if at % 8 == LOW { word as u32 } else { (word >> 32) as u32 }
        }
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let jump = |taken| usize::from(if taken { jt } else { jf });
        at += 1;
        match code {
            LOAD_WORD => a = load(k),
            AND => a &= k,
            JUMP => at += k as usize,
            JUMP_IF_EQUAL => at += jump(a == k),
            JUMP_IF_GREATER => at += jump(a > k),
            JUMP_IF_GREATER_OR_EQUAL => at += jump(a >= k),
            RETURN => return k,
            other => panic!("a step of kind {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CallVerdict::{Look, Return};
    use super::*;

    #[test]
    fn every_number_has_its_own_verdict() {
        let lists: [&[(u32, CallVerdict)]; 4] = [
            &[],
            &[(0, Return(1))],
            &[
                (7, Look(0)),
                (0, Return(1)),
                (1, Return(1)),
                (2, Return(2)),
                (9, Return(9)),
                (8, Return(1)),
            ],
            &[(3, Return(1)), (4, Look(1)), (5, Look(0)), (450, Return(2))],
        ];
        for known in lists {
            // The first block refuses what the second one allows.
            let blocks = vec![
                ArgumentChecks::new(77).one_of(0, &[1]),
                ArgumentChecks::new(78).one_of(0, &[0]),
            ];
            let program = program(known.to_vec(), 9, blocks).unwrap();
            for number in (0..500).chain([u32::MAX - 1, u32::MAX]) {
                let expected = match known.iter().find(|known| known.0 == number) {
                    Some((_, Look(0))) => 77,
                    Some((_, Look(_))) => SECCOMP_RET_ALLOW,
                    Some((_, Return(verdict))) => *verdict,
                    None => 9,
                };
                assert_eq!(run(&program, number, [0; 6]), expected, "{number} of {known:?}");
            }
        }
    }

    #[test]
    fn what_no_jump_reaches_is_an_error() {
        let known = (0..600).map(|number| (2 * number, Return(1))).collect();
        assert!(program(known, 9, Vec::new()).is_err());
    }
}
