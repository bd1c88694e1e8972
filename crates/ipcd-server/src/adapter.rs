//! Adapters between the channels of peers that do not send frames, and the router.

use crate::codec_adapter::CodecAdapter;
use crate::nats::NatsAdapter;
use crate::staged_bytes::StagedBytes;

/// The adapter of one peer.
pub(crate) enum Adapter {
    /// For a peer whose messages a codec divides.
    Raw(Box<CodecAdapter>),
    /// For a peer that speaks the protocol of NATS.
    Nats(Box<NatsAdapter>),
}

impl Adapter {
    /// The adapter of a raw peer.
    pub(crate) fn raw(&mut self) -> Option<&mut CodecAdapter> {
        match self {
            Self::Raw(adapter) => Some(adapter),
            Self::Nats(_) => None,
        }
    }

    /// The adapter of a NATS client.
    pub(crate) fn nats(&mut self) -> Option<&mut NatsAdapter> {
        match self {
            Self::Raw(_) => None,
            Self::Nats(adapter) => Some(adapter),
        }
    }

    /// Whether the peer is known to the router by frames of its own, beginning with HELLO.
    pub(crate) fn has_session(&self) -> bool {
        matches!(self, Self::Nats(_))
    }

    /// Limits the messages of the peer to so many bytes from now on.
    pub(crate) fn set_largest(&mut self, largest: usize) {
        match self {
            Self::Raw(adapter) => adapter.set_largest(largest),
            Self::Nats(adapter) => adapter.set_largest(largest),
        }
    }

    /// Whether there are bytes for the peer that were made of no frames.
    pub(crate) fn has_text(&mut self) -> bool {
        !self.staged().unwritten().is_empty() || self.nats().is_some_and(|nats| nats.has_text())
    }

    /// Whether the peer says when it is done; else it is gone when the daemon is.
    pub(crate) fn has_end(&self) -> bool {
        match self {
            Self::Raw(adapter) => adapter.has_end(),
            Self::Nats(_) => true,
        }
    }

    /// Whether the peer may still want messages when it sends no more.
    pub(crate) fn may_hear_on(&self) -> bool {
        match self {
            Self::Raw(adapter) => adapter.may_hear_on(),
            Self::Nats(_) => false,
        }
    }

    /// The bytes that are to be written next.
    pub(crate) fn staged(&mut self) -> &mut StagedBytes {
        match self {
            Self::Raw(adapter) => adapter.staged(),
            Self::Nats(adapter) => adapter.staged(),
        }
    }

    /// Translates frames for the peer, which come in pieces of whole frames. Returns the bytes of
    /// those that are to be written next. `spare` is memory for the translation.
    pub(crate) fn stage<'a>(
        &mut self,
        mut pieces: impl Iterator<Item = &'a [u8]>,
        spare: &mut Vec<u8>,
    ) -> usize {
        let staged = self.staged();
        if staged.bytes.capacity() == 0 {
            staged.bytes = std::mem::take(spare);
        }
        match self {
            Self::Raw(adapter) => adapter.stage_frames(pieces.next().unwrap_or_default()),
            Self::Nats(adapter) => adapter.stage(pieces),
        }
    }

    /// Drops the bytes to be written, because the peer has no reader. Returns the bytes of those of
    /// these frames that were written whole before.
    pub(crate) fn discard(&mut self, frames: &[u8]) -> usize {
        match self {
            Self::Raw(adapter) => adapter.discard(frames),
            // A stream is not cut: its reader would find half a message.
            Self::Nats(_) => 0,
        }
    }

    /// Why the first message was refused, to be logged once.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        self.raw()?.take_refusal()
    }

    /// Messages of the peer that were refused, and for it that were withheld.
    pub(crate) fn lost_messages(&self) -> (u64, u64) {
        match self {
            Self::Raw(adapter) => adapter.lost_messages(),
            Self::Nats(adapter) => (0, adapter.undelivered()),
        }
    }
}
