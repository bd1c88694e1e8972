//! The answer to a peer that is not served.

use ipcd_proto::control::{Code, Refusal, encode};
use ipcd_proto::{FrameWriter, Header, Kind};
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
    let refusal = Refusal { code: Code::Limit, message: why.to_owned() };
    let mut frame = Vec::new();
    FrameWriter(&mut frame).control(Header::new(Kind::Error, 0), &encode(&refusal));
    if let Ok(mut channel) = transport.adopt(parts) {
        let _ = channel.write(&frame).and_then(|_| channel.finish());
    }
}
