//! `acl check`: asks the access rules of a file or of the daemon.

use std::path::Path;

use ipcd_client::{AccessRequest, AccessVerdict, Answer, PeerAttributes, Query};
use ipcd_server::Config;
use nix::unistd::{Group, Uid, User, getegid, geteuid};
use serde_json::json;

use crate::args::{AclVerb, CheckArgs, OutputFormat};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::json;
use crate::output::{visible, write_all};

pub(crate) fn run(context: &Context, AclVerb::Check(args): &AclVerb) -> Outcome {
    let (who, access) = (described_peer(args)?, requested_action(args));
    let verdict = match &args.config {
        Some(file) => check_file(file, &who, &access)?,
        None => ask_daemon(context, who, access)?,
    };
    print_verdict(context, args, verdict)
}

fn check_file(file: &Path, who: &PeerAttributes, access: &AccessRequest) -> Outcome<AccessVerdict> {
    let config = Config::load(file);
    let config = config.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    let verdict = config.acl().verdict(who, access);
    verdict.map_err(|error| Failure::new(FailureKind::BadMessage, error.to_string()))
}

fn ask_daemon(
    context: &Context,
    who: PeerAttributes,
    access: AccessRequest,
) -> Outcome<AccessVerdict> {
    match context.connect()?.query(&Query::Access { who, access })?.pop() {
        Some(Answer::Verdict(verdict)) => Ok(verdict),
        _ => Err(Failure::new(FailureKind::BadMessage, "the daemon answered another question")),
    }
}

fn requested_action(args: &CheckArgs) -> AccessRequest {
    match (&args.what.publish, &args.what.subscribe, &args.what.named) {
        (Some(subject), ..) => AccessRequest::Publish(subject.clone()),
        (_, Some(filter), _) => {
            AccessRequest::Subscribe { filter: filter.clone(), group: args.member }
        }
        (.., Some(name)) => AccessRequest::Name(name.clone()),
        _ => AccessRequest::Admin,
    }
}

/// The peer to check for: the caller, unless options describe another. A user without a given group
/// has its primary group.
fn described_peer(args: &CheckArgs) -> Outcome<PeerAttributes> {
    let CheckArgs { listener, token, certificate, .. } = args;
    let proved = [listener, token, certificate].map(Clone::clone);
    let is_said = args.uid.is_some() || args.gid.is_some() || proved.iter().any(Option::is_some);
    let [listener, token, certificate] = proved;
    if !is_said && args.user.is_none() && args.group.is_none() {
        let (uid, gid) = (Some(geteuid().as_raw()), Some(getegid().as_raw()));
        return Ok(PeerAttributes { uid, gid, listener, token, certificate });
    }
    let user = match (&args.user, args.uid) {
        (Some(name), _) => Some(require_entry("user", name, User::from_name(name))?),
        (None, Some(uid)) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        (None, None) => None,
    };
    let gid = match &args.group {
        Some(name) => Some(require_entry("group", name, Group::from_name(name))?.gid.as_raw()),
        None => args.gid.or(user.as_ref().map(|user| user.gid.as_raw())),
    };
    let uid = args.uid.or(user.map(|user| user.uid.as_raw()));
    Ok(PeerAttributes { uid, gid, listener, token, certificate })
}

fn require_entry<T>(kind: &str, name: &str, found: nix::Result<Option<T>>) -> Outcome<T> {
    let missing = || Failure::new(FailureKind::Usage, format!("--{kind} {name}: no such {kind}"));
    found.ok().flatten().ok_or_else(missing)
}

fn print_verdict(context: &Context, args: &CheckArgs, verdict: AccessVerdict) -> Outcome {
    let AccessVerdict { allowed, partly, rule, line } = verdict;
    let why = verdict_reason(args, verdict);
    match context.format() {
        OutputFormat::Text if allowed => {
            let how = if partly { "allowed in part" } else { "allowed" };
            write_all((visible(&format!("{how}: {why}")) + "\n").as_bytes())?;
        }
        OutputFormat::Text => {}
        OutputFormat::Json | OutputFormat::Jsonl => {
            let told = json!({"allowed": allowed, "partly": partly, "rule": rule, "line": line});
            write_all((json::compact(&told) + "\n").as_bytes())?;
        }
    }
    match allowed {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::Denied, format!("denied: {why}"))),
    }
}

/// The rule that decides, or the reason for which none does.
fn verdict_reason(args: &CheckArgs, verdict: AccessVerdict) -> String {
    let file = args.config.as_ref().map(|file| format!("{}:", file.display()));
    let place = match (file, verdict.line) {
        (Some(file), Some(line)) => format!(" ({file}{line})"),
        (None, Some(line)) => format!(" (line {line} of the daemon's configuration)"),
        (_, None) => String::new(),
    };
    match (verdict.rule, verdict.allowed) {
        (Some(rule), _) => format!("[[acl]] rule {rule} decides{place}"),
        (None, true) => "no rule denies it, and there is no rule that allows anything".into(),
        (None, false) => "no rule allows it".into(),
    }
}
