//! Inspecting the daemon: `status`, `clients`, `subs`, `kick`; and the tool: `transports`, `version`.

use ipcd_client::{Answer, DaemonStatus, OverflowPolicy, PeerStatus, Query, SubscriptionStatus};
use ipcd_transport::{IdentityKind, Transport};
use serde_json::{Value, json};

use crate::args::OutputFormat;
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::json;
use crate::output::{table, visible, write_all};

pub(crate) fn status(context: &Context) -> Outcome {
    let mut client = context.connect()?;
    let Some(Answer::Status(status)) = client.query(&Query::Status)?.pop() else {
        return Err(another_answer());
    };
    let Some(Answer::Sandbox(sandbox)) = client.query(&Query::Sandbox)?.pop() else {
        return Err(another_answer());
    };
    print(context, &status_text(&status, &sandbox), || status_json(&status, &sandbox))
}

fn another_answer() -> Failure {
    Failure::new(FailureKind::BadMessage, "the daemon answered another question")
}

pub(crate) fn clients(context: &Context) -> Outcome {
    let mut peers = Vec::new();
    for answer in context.connect()?.query(&Query::Peers)? {
        if let Answer::Peers(more) = answer {
            peers.extend(more);
        }
    }
    print(context, &clients_text(&peers), || peers.iter().map(client_json).collect())
}

pub(crate) fn subs(context: &Context) -> Outcome {
    let mut all = Vec::new();
    for answer in context.connect()?.query(&Query::Subscriptions)? {
        if let Answer::Subscriptions(more) = answer {
            all.extend(more);
        }
    }
    print(context, &subs_text(&all), || all.iter().map(sub_json).collect())
}

pub(crate) fn kick(context: &Context, who: &str) -> Outcome {
    let mut client = context.connect()?;
    // A name is never a number, so that `7` is the id and cannot be hijacked by a name.
    let found = match who.parse() {
        Ok(id) => Some(id),
        Err(_) => client.find(who)?,
    };
    let answer = found.map(|id| client.query(&Query::Kick(id))).transpose()?;
    match answer.and_then(|mut answers| answers.pop()) {
        Some(Answer::Kicked(true)) => Ok(()),
        _ => {
            let why = format!("kick {who}: no such peer (see ipcctl clients)");
            Err(Failure::new(FailureKind::NoPeer, why))
        }
    }
}

pub(crate) fn transports(context: &Context) -> Outcome {
    let all = ipcd_transports::ALL;
    let json = || all.iter().map(|transport| transport_json(context, *transport)).collect();
    print(context, &transports_text(context), json)
}

pub(crate) fn version(context: &Context) -> Outcome {
    let (version, protocol) = (env!("CARGO_PKG_VERSION"), ipcd_proto::VERSION);
    let text = format!("ipcctl {version} (protocol {protocol})\n");
    print(context, &text, || json!({"version": version, "protocol": protocol}))
}

/// Prints a result: as text, as JSON, or as JSON with one item per line.
pub(crate) fn print(context: &Context, text: &str, json: impl FnOnce() -> Value) -> Outcome {
    match context.format() {
        OutputFormat::Text => write_all(text.as_bytes()),
        OutputFormat::Json => write_all(format!("{}\n", json::pretty(&json())).as_bytes()),
        OutputFormat::Jsonl => match json() {
            Value::Array(items) => {
                let lines: String = items.iter().map(|item| json::compact(item) + "\n").collect();
                write_all(lines.as_bytes())
            }
            value => write_all((json::compact(&value) + "\n").as_bytes()),
        },
    }
}

fn status_text(status: &DaemonStatus, sandbox: &str) -> String {
    let seconds = status.uptime_ms / 1000;
    let DaemonStatus { version, pid, .. } = status;
    let (version, sandbox) = (visible(version), visible(sandbox));
    let head = format!("ipcd {version}, process {pid}, up {seconds} s\nsandbox {sandbox}\n\n");
    let workers: Vec<Vec<String>> = status
        .workers
        .iter()
        .map(|w| [w.slot.into(), u64::from(w.pid), u64::from(w.generation), w.peers])
        .map(|row: [u64; 4]| row.map(|cell| cell.to_string()).into())
        .collect();
    let listeners: Vec<Vec<String>> = status
        .listeners
        .iter()
        .map(|l| vec![l.endpoint.clone(), l.codec.clone(), l.peers.to_string()])
        .collect();
    let counters: Vec<Vec<String>> =
        status.counters.iter().map(|(name, value)| vec![name.clone(), value.to_string()]).collect();
    [
        head,
        table(&["WORKER", "PROCESS", "GENERATION", "PEERS"], &workers),
        "\n".into(),
        table(&["LISTENER", "CODEC", "PEERS"], &listeners),
        "\n".into(),
        table(&["COUNTER", "VALUE"], &counters),
    ]
    .concat()
}

fn status_json(status: &DaemonStatus, sandbox: &str) -> Value {
    let counters: serde_json::Map<String, Value> =
        status.counters.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    let worker = |w: &ipcd_proto::control::WorkerStatus| json!({"slot": w.slot, "pid": w.pid, "generation": w.generation, "peers": w.peers});
    let listener = |l: &ipcd_proto::control::ListenerStatus| json!({"endpoint": l.endpoint, "codec": l.codec, "peers": l.peers});
    json!({
        "pid": status.pid,
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "sandbox": sandbox,
        "workers": status.workers.iter().map(worker).collect::<Vec<_>>(),
        "listeners": status.listeners.iter().map(listener).collect::<Vec<_>>(),
        "counters": counters,
    })
}

fn clients_text(peers: &[PeerStatus]) -> String {
    let head = [
        "ID",
        "NAME",
        "TRANSPORT",
        "FROM",
        "WORKER",
        "MSGS IN",
        "MSGS OUT",
        "BYTES IN",
        "BYTES OUT",
        "BYTES QUEUED",
        "MSGS DROPPED",
        "SUBSCRIPTIONS",
    ];
    let row = |peer: &PeerStatus| {
        let name = peer.origin.name.as_deref().map_or("-".into(), visible);
        let text = [
            peer.origin.peer.to_string(),
            name,
            peer.origin.transport.to_string(),
            source_text(peer),
        ];
        let numbers = [
            peer.worker.into(),
            peer.msgs_in,
            peer.msgs_out,
            peer.bytes_in,
            peer.bytes_out,
            peer.queued_bytes,
            peer.dropped,
        ];
        let filters = visible(&peer.subscriptions.join(" "));
        text.into_iter()
            .chain(numbers.map(|number: u64| number.to_string()))
            .chain([filters])
            .collect()
    };
    table(&head, &peers.iter().map(row).collect::<Vec<_>>())
}

fn source_text(peer: &PeerStatus) -> String {
    let origin = &peer.origin;
    if let Some(addr) = origin.addr {
        return addr.to_string();
    }
    let known = [("pid", origin.pid), ("uid", origin.uid)];
    let known = known.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    known.collect::<Vec<_>>().join(",")
}

fn client_json(peer: &PeerStatus) -> Value {
    let origin = &peer.origin;
    json!({
        "id": origin.peer,
        "name": origin.name,
        "transport": origin.transport,
        "uid": origin.uid,
        "gid": origin.gid,
        "pid": origin.pid,
        "addr": origin.addr.map(|addr| addr.to_string()),
        "worker": peer.worker,
        "subscriptions": peer.subscriptions,
        "msgs_in": peer.msgs_in,
        "msgs_out": peer.msgs_out,
        "bytes_in": peer.bytes_in,
        "bytes_out": peer.bytes_out,
        "dropped": peer.dropped,
        "queued_bytes": peer.queued_bytes,
    })
}

fn subs_text(all: &[SubscriptionStatus]) -> String {
    let head = [
        "PEER",
        "NAME",
        "WORKER",
        "FILTER",
        "GROUP",
        "OVERFLOW",
        "MSGS MATCHED",
        "DELIVERED",
        "DROPPED",
        "QUEUED",
    ];
    let row = |it: &SubscriptionStatus| {
        let known = |text: Option<&str>| text.map_or("-".into(), visible);
        vec![
            it.peer.to_string(),
            known(it.name.as_deref()),
            it.worker.to_string(),
            visible(&it.filter),
            known(it.group.as_deref()),
            policy_name(it.overflow).to_owned(),
            it.matched.to_string(),
            it.delivered.to_string(),
            dropped_total(it).to_string(),
            it.queued.to_string(),
        ]
    };
    table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

fn sub_json(it: &SubscriptionStatus) -> Value {
    let by_reason = it.dropped.iter().map(|&(reason, count)| (reason.name().into(), count.into()));
    json!({
        "peer": it.peer,
        "name": it.name,
        "worker": it.worker,
        "subscription": it.subscription,
        "filter": it.filter,
        "group": it.group,
        "overflow": policy_name(it.overflow),
        "matched": it.matched,
        "delivered": it.delivered,
        "dropped": dropped_total(it),
        "dropped_by": by_reason.collect::<serde_json::Map<String, Value>>(),
        "queued": it.queued,
    })
}

fn dropped_total(it: &SubscriptionStatus) -> u64 {
    it.dropped.iter().map(|&(_, count)| count).sum()
}

fn policy_name(what: OverflowPolicy) -> &'static str {
    match what {
        OverflowPolicy::Block => "block",
        OverflowPolicy::DropOldest => "drop-oldest",
        OverflowPolicy::DropNewest => "drop-newest",
        OverflowPolicy::Disconnect => "disconnect",
    }
}

fn transports_text(context: &Context) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let row = |transport: &&dyn Transport| {
        let can = transport.capabilities();
        vec![
            transport.scheme().to_owned(),
            yes(can.ordered),
            yes(can.reliable),
            yes(can.boundaries),
            yes(can.remote),
            identity_name(can.identity).to_owned(),
            default_endpoint(context, *transport).unwrap_or_else(|| "-".into()),
            can.summary.to_owned(),
        ]
    };
    let head =
        ["TRANSPORT", "ORDERED", "RELIABLE", "RECORDS", "REMOTE", "PEER KNOWN BY", "DEFAULT", ""];
    table(&head, &ipcd_transports::ALL.iter().map(row).collect::<Vec<_>>())
}

fn transport_json(context: &Context, transport: &dyn Transport) -> Value {
    let can = transport.capabilities();
    json!({
        "transport": transport.scheme(),
        "summary": can.summary,
        "ordered": can.ordered,
        "reliable": can.reliable,
        "boundaries": can.boundaries,
        "remote": can.remote,
        "largest_record": can.largest_record,
        "identity": identity_name(can.identity),
        "options": transport.options(),
        "encrypted": can.encrypted,
        "default": default_endpoint(context, transport),
    })
}

fn default_endpoint(context: &Context, transport: &dyn Transport) -> Option<String> {
    transport.default_endpoint(context.runtime_dir()).ok().map(|endpoint| endpoint.to_string())
}

fn identity_name(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::Credentials => "credentials",
        IdentityKind::Owner => "owner",
        IdentityKind::Address | IdentityKind::OtherAddress => "address",
    }
}
