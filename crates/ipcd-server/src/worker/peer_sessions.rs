//! The beginning and the end of a peer in a worker: admitting, closing and detaching it.

use std::os::fd::AsRawFd;

use ipcd_core::{CloseReason, PeerInfo, PeerKey, Principal};
use ipcd_proto::control::Origin;
use ipcd_transport::{Channel, ChannelParts, PeerIdentity, Transport};
use nix::errno::Errno;
use tracing::{info, warn};

use super::Worker;
use crate::Error;
use crate::adapter::Adapter;
use crate::codec_adapter::CodecAdapter;
use crate::ids::{AdmissionId, OwnerId};
use crate::link::PeerEnd;
use crate::listen::RawProfile;
use crate::refusal::tell_refusal;
use crate::worker::connection::Connection;
use crate::worker::init::NewPeer;

/// Why a peer is not served that the worker has no descriptor for.
const NO_DESCRIPTOR: &str = "the worker has no free descriptor: see RLIMIT_NOFILE";
/// Room that is made in the kernel for the end of what a peer gets, at the most.
const LAST_WORDS: usize = 2 * 1024 * 1024;

/// A channel, and what translates for it.
type AdoptedChannel = (Box<dyn Channel>, Option<Adapter>);

impl Worker {
    pub(super) fn admit_peer(&mut self, peer: NewPeer) {
        let NewPeer { number, owner, transport, parts, raw_profile } = peer;
        let identity = parts.identity.clone();
        if parts.descriptors.is_empty() {
            return self.reject_peer(number, transport, &identity, NO_DESCRIPTOR);
        }
        // This early, because telling the peer the reason takes its own descriptors, which must
        // fit, too.
        if parts.descriptors.iter().any(|fd| fd.as_raw_fd() as u64 >= self.last_descriptor) {
            tell_refusal(transport, parts, raw_profile.is_some(), NO_DESCRIPTOR);
            return self.reject_peer(number, transport, &identity, NO_DESCRIPTOR);
        }
        let must_prove = RawProfile::must_prove(raw_profile.as_ref(), transport);
        let (challenge, (channel, mut adapter)) =
            match self.take_up(transport, parts, owner, raw_profile) {
                Ok(taken) => taken,
                Err(error) => {
                    return self.reject_peer(number, transport, &identity, &error.to_string());
                }
            };
        let origin = Origin {
            peer: 0,
            name: None,
            transport: transport.scheme().into(),
            pid: identity.pid,
            uid: identity.uid,
            gid: identity.gid,
            addr: identity.addr,
        };
        let raw = adapter.as_mut().and_then(Adapter::raw).map(|adapter| adapter.session());
        let key =
            self.router.attach(self.now, PeerInfo { listener: owner.0, origin, challenge, raw });
        let peer = self.router.origin(key).peer;
        let source = self.source_of(&identity);
        info!(%source, peer, transport = %transport.scheme(), %identity, "peer connected");
        if let Some(adapter) = adapter.as_mut().and_then(Adapter::nats) {
            adapter.begin(peer);
            if adapter.ends_when_slow() {
                self.router.end_when_slow(key);
            }
        }
        let token = self.connections.next_token(key);
        let mut connection = Connection::new(channel, adapter, token, number);
        connection.must_prove = must_prove;
        let is_shaking_hands = connection.channel.is_shaking_hands();
        self.connections.insert(key, connection);
        self.write_texts(key);
        // Bytes that came during the rendezvous are here already, and no event reports them.
        if !is_shaking_hands {
            self.read_peer(key);
        }
        self.after_service(key);
        self.tick_peer(key);
        self.rearm_peer(key);
    }

    /// Makes a channel of the parts that were handed over, with a codec adapter for a raw peer. If
    /// only an address is known of a peer, it must prove a token, unless it is raw.
    fn take_up(
        &self,
        transport: &dyn Transport,
        parts: ChannelParts,
        owner: OwnerId,
        raw_profile: Option<RawProfile>,
    ) -> Result<(Option<[u8; 32]>, AdoptedChannel), Error> {
        let is_vouched = transport.capabilities().identity.is_vouched();
        let Some(raw_profile) = raw_profile else {
            let channel = transport.adopt(parts)?;
            let challenge = if is_vouched { None } else { Some(nonce()?) };
            return Ok((challenge, (channel, None)));
        };
        if let Some(nats) = raw_profile.nats {
            let (channel, adapter) = self.take_up_nats(transport, parts, owner, nats)?;
            return Ok((None, (channel, Some(adapter))));
        }
        let (addr, is_chosen) = (parts.identity.addr, raw_profile.chosen);
        let raw_transport = transport
            .raw()
            .ok_or_else(|| Error::Config(format!("{} takes frames only", transport.scheme())))?;
        let raw = raw_transport.adopt_raw(parts)?;
        let mut adapter = CodecAdapter::new(raw_profile, &raw, self.router.max_payload());
        let is_distant = addr.is_some_and(|addr| !addr.is_loopback());
        // A page in a browser can connect to a stream with an address, also on the loopback. A peer
        // that the daemon has dialled or started is no browser.
        if addr.is_some() && !is_chosen && raw.has_end {
            adapter.look_for_browser();
        }
        // The address of a datagram can be forged. Larger answers than questions would help to
        // flood the host that really has it.
        if is_distant && !is_chosen && !transport.capabilities().reliable {
            adapter.limit_amplification();
        }
        Ok((None, (raw.channel, Some(Adapter::Raw(Box::new(adapter))))))
    }

    /// The source that a line about a peer is charged to.
    pub(super) fn source_of(&self, identity: &PeerIdentity) -> Principal {
        Principal::of(identity.uid, identity.addr, self.router.prefixes())
    }

    fn reject_peer(
        &mut self,
        number: AdmissionId,
        transport: &dyn Transport,
        who: &PeerIdentity,
        why: &str,
    ) {
        let source = self.source_of(who);
        warn!(%source, transport = %transport.scheme(), identity = %who, why, "peer not served");
        self.link.note_gone(number, PeerEnd::CutOff);
    }

    /// Tells the router of a certificate, before it hears anything of the peer.
    pub(super) fn note_certificate(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let identity = connection.channel.identity();
        let Some(name) = identity.certificate.as_deref().filter(|_| !connection.is_vouched) else {
            return;
        };
        let peer = self.router.origin(key).peer;
        let source = Principal::of(identity.uid, identity.addr, self.router.prefixes());
        info!(%source, peer, %identity, "peer identified by its certificate");
        let has_other_rights = self.router.certify(key, name);
        connection.is_vouched = true;
        if has_other_rights && let Some(adapter) = &mut connection.adapter {
            // Messages that wait for it were not sent yet. Until now it was unknown whether it may
            // hear them.
            let whole = adapter.discard(self.router.send_queue(key));
            self.router.wrote(self.now, key, whole);
            self.router.drop_unread(self.now, key);
        }
    }

    pub(super) fn detach_peer(&mut self, key: PeerKey, why: &str) {
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        let end = match &connection.closing {
            Some(reason) if reason.has_stalled => PeerEnd::Stalled,
            Some(_) => PeerEnd::CutOff,
            None => PeerEnd::Departed,
        };
        let why = connection.closing.as_ref().map_or(why, |reason| &reason.why);
        let origin = self.router.origin(key);
        let source = self.source_of(connection.channel.identity());
        let (peer, transport, name) = (origin.peer, &origin.transport, origin.name.as_deref());
        let identity = connection.channel.identity();
        match self.router.dropped(key) {
            0 => info!(%source, peer, %transport, %identity, name, why, "peer gone"),
            // The lost messages may matter more than its end.
            dropped => warn!(%source, peer, %transport, %identity, name, why, dropped, "peer gone"),
        }
        if let Some((refused, withheld)) = connection.adapter.as_ref().map(|t| t.lost_messages())
            && refused + withheld > 0
        {
            warn!(%source, peer = origin.peer, refused, withheld, "messages of or for the peer were dropped");
        }
        self.router.detach(self.now, key);
        self.link.note_gone(connection.admission, end);
    }

    /// Ends the session of a peer that the supervisor wants gone.
    pub(super) fn dismiss_peer(&mut self, number: AdmissionId) {
        if let Some(key) = self.connections.find(number) {
            self.router.dismiss(self.now, key, "the daemon ended the session");
        }
    }

    /// Lets a peer go, for another wants its place. One that may still prove its token stays if it has.
    pub(super) fn evict_peer(&mut self, number: AdmissionId, why: &str, may_prove: bool) {
        let Some(key) = self.connections.find(number) else { return };
        let must_prove = self.connections.get(key).is_some_and(|found| found.must_prove);
        if must_prove || !may_prove {
            self.router.displace(self.now, key, why, may_prove);
        }
    }

    pub(super) fn close_session(&mut self, key: PeerKey, reason: CloseReason) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.closing = Some(Box::new(reason));
            connection.waiting = false;
            // Its last bytes cannot be written, so there is nothing to wait for.
            if let Some(why) = connection.broken.take() {
                return self.detach_peer(key, &why);
            }
            if std::mem::take(&mut connection.blocked) {
                // One that does not read finds in its own buffer why it was cut off.
                let last = self.router.queued(key);
                connection.channel.make_room(last.min(LAST_WORDS));
            }
            self.write_peer(key);
            self.rearm_peer(key);
        }
    }

    /// A session is open: one that had to prove something has.
    pub(super) fn note_opened(&mut self, key: PeerKey) {
        if let Some(connection) = self.connections.get_mut(key)
            && std::mem::take(&mut connection.must_prove)
        {
            self.link.note_opened(connection.admission);
        }
    }

    /// Logs once that a peer was denied something. The refusals of a raw peer have a line of their
    /// own, because it cannot be told.
    pub(super) fn note_denied(&mut self, key: PeerKey, why: &str) {
        let Some(connection) = self.connections.get(key) else { return };
        if connection.adapter.is_none() || connection.is_nats() {
            let identity = connection.channel.identity();
            let peer = self.router.origin(key).peer;
            let source = self.source_of(identity);
            warn!(%source, peer, %identity, why, "denied; later denials of this peer are only counted");
        }
    }

    /// Lets a peer go that nothing would ever be heard of: the kernel cannot wait for it, for lack of
    /// memory (ENOMEM) or because the user waits for too much already (ENOSPC, `max_user_watches`
    /// in epoll(7)). It is told so, if it takes that at once.
    pub(super) fn leave_unwatched(&mut self, key: PeerKey, error: Errno) {
        let why = format!("the kernel cannot watch its descriptor: {error}");
        if self.connections.get_mut(key).is_some_and(|connection| connection.closing.is_none()) {
            let (peer, source) = self.peer_and_source(key);
            warn!(
                %source,
                peer,
                why,
                "peer disconnected: see epoll(7) for the limit on watches of one user"
            );
            self.router.leave_unwatched(self.now, key, &why);
            self.write_peer(key);
            self.finish_channel(key);
        }
        self.detach_peer(key, &why);
    }
}

pub(super) fn nonce() -> Result<[u8; 32], Error> {
    let mut nonce = [0; 32];
    let failed = |error: getrandom::Error| std::io::Error::other(error.to_string());
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::system("get random bytes", failed(error)))?;
    Ok(nonce)
}
