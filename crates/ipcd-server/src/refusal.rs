//! The answer to a peer that is not served.

use ipcd_proto::control::{Refusal, RefusalCode, encode};
use ipcd_proto::{FrameKind, FrameWriter, Header};
use ipcd_transport::{ChannelParts, Transport};

/// Tells a peer that it is not admitted, if it takes a frame at once, and lets it go.
pub(crate) fn tell_refusal(
    transport: &dyn Transport,
    parts: ChannelParts,
    is_bare: bool,
    why: &str,
) {
    if is_bare {
        return;
    }
    let refusal = Refusal { code: RefusalCode::Limit, message: why.to_owned() };
    let mut frame = Vec::new();
    FrameWriter(&mut frame).control(Header::new(FrameKind::Error, 0), &encode(&refusal));
    if let Ok(mut channel) = transport.adopt(parts) {
        let _ = channel.write(&frame).and_then(|_| channel.finish());
    }
}
