//! The memory of filters in the subscription index, and that it is freed after them. It is counted,
//! so that it does not grow unnoticed.

use std::sync::atomic::Ordering;

use ipcd_core::{LocalSubscriber, PeerKey, SubscriptionIndex};
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::{Filter, Subject};
use ipcd_sys::alloc_count::{Counting, LIVE_BYTES};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILTERS: usize = 10_000;
/// Bytes of a filter with a unique token, and of one with common tokens only.
const OWN_TOKEN_BYTES: u64 = 320;
const COMMON_TOKENS_BYTES: u64 = 240;
const HARNESS_BYTES: u64 = 8 * 1024;

fn live() -> u64 {
    LIVE_BYTES.load(Ordering::Relaxed)
}

#[test]
fn filters_take_little_memory_and_leave_none_behind() {
    let numbered = |number: usize| format!("app.sensor.{number}.>");
    let binary = |number: usize| {
        let token = |bit: usize| if number >> bit & 1 == 0 { "a" } else { "*" };
        (0..14).map(token).collect::<Vec<_>>().join(".") + ".z"
    };
    let kinds: [(&dyn Fn(usize) -> String, u64); 2] =
        [(&numbered, OWN_TOKEN_BYTES), (&binary, COMMON_TOKENS_BYTES)];
    for (text, most) in kinds {
        let before = live();
        let mut index = SubscriptionIndex::default();
        for number in 0..FILTERS {
            let filter = Filter::parse(text(number).as_bytes()).expect("it is a filter");
            let (peer, subscription, origin) = (PeerKey::default(), 1, false);
            let (overflow, group) = (OverflowPolicy::Block, None);
            index.add(&filter, LocalSubscriber { peer, subscription, overflow, origin, group });
        }
        let each = (live() - before) / FILTERS as u64;
        println!("{each} bytes for a filter like {}", text(7));
        assert!(each <= most, "{each} bytes for a filter like {}", text(7));
        index.remove_all(|_| true);
        assert_eq!(index.find(Subject::parse(b"app.sensor.7.x").unwrap()), []);
        // The harness of the test takes memory at the same time.
        assert!(live() - before < HARNESS_BYTES, "{} bytes are left", live() - before);
    }
}
