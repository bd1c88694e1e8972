//! Durations and byte counts as people write them: `10s`, `500ms`, `1MiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: `10s`, `500ms`, `1m 30s`; a number alone means seconds. It is never longer than
/// [`TimeSpan::LONGEST`], so that every clock can add it, and add it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// 100 years: as good as for ever.
    pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// This duration, or the longest if it is longer.
    pub const fn new(duration: Duration) -> Self {
        match duration.as_secs() < Self::LONGEST.as_secs() {
            true => Self(duration),
            false => Self(Self::LONGEST),
        }
    }

    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<f64>() {
            return match Duration::try_from_secs_f64(seconds) {
                Ok(span) => Ok(Self::new(span)),
                Err(_) if seconds > 0.0 && seconds.is_finite() => Ok(Self::new(Duration::MAX)),
                Err(_) => Err(format!("{text} is not a duration")),
            };
        }
        let span = humantime::parse_duration(text);
        span.map(Self::new).map_err(|error| format!("{error}: write 10s, 500ms or 2m"))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// The pauses between attempts, the first and the longest: `1s..60s`. One duration alone is both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPauses {
    /// The first pause.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

/// The shortest pause: what is tried again and again must not keep the daemon busy.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

impl FromStr for RetryPauses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, longest) = text.split_once("..").unwrap_or((text, text));
        let (TimeSpan(first), TimeSpan(longest)) = (first.trim().parse()?, longest.trim().parse()?);
        if first < SHORTEST_PAUSE || longest < first {
            let shortest = TimeSpan(SHORTEST_PAUSE);
            return Err(format!(
                "{text}: the first pause is at least {shortest}, the longest no shorter: 1s..60s"
            ));
        }
        Ok(Self { first, longest })
    }
}

impl fmt::Display for RetryPauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", TimeSpan(self.first), TimeSpan(self.longest))
    }
}

/// A number of bytes: `4096`, `64KiB`, `1MiB`. It is never more than [`ByteCount::MOST`], so that a
/// few of them can be added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ByteCount(usize);

impl ByteCount {
    /// An exbibyte: more than any machine has.
    pub const MOST: usize = 1 << 60;

    /// So many bytes, or the most if that is less.
    pub const fn new(bytes: usize) -> Self {
        match bytes < Self::MOST {
            true => Self(bytes),
            false => Self(Self::MOST),
        }
    }

    /// The number.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: ByteSize =
            text.parse().map_err(|_| format!("{text}: write 4096, 64KiB or 1MiB"))?;
        Ok(Self::new(usize::try_from(size.as_u64()).unwrap_or(usize::MAX)))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => bytes.fmt(f),
        }
    }
}

/// Text or a whole number, as TOML has both.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string such as \"10s\" or \"1MiB\", or a whole number")]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

macro_rules! as_written {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match TextOrNumber::deserialize(deserializer)? {
                    TextOrNumber::Text(text) => text,
                    TextOrNumber::Number(number) => number.to_string(),
                };
                text.parse().map_err(D::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

as_written!(TimeSpan);
as_written!(RetryPauses);
as_written!(ByteCount);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        let millis = |text: &str| text.parse::<TimeSpan>().map(|span| span.0.as_millis());
        assert_eq!(millis("10s"), Ok(10_000));
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("1m 30s"), Ok(90_000));
        assert_eq!(millis("3"), Ok(3000));
        assert_eq!(millis("0.25"), Ok(250));
        for bad in ["", "ten", "-1", "1 parsec", "nan", "inf"] {
            assert!(millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_duration_is_too_long_for_the_clock_and_no_size_too_much_to_add() {
        let now = std::time::Instant::now();
        for text in ["9223372036854775807s", "1e19", "18446744073709551615", "1000y"] {
            let span = text.parse::<TimeSpan>().unwrap();
            assert_eq!(span.duration(), TimeSpan::LONGEST, "{text}");
            assert!(now.checked_add(2 * span.duration()).is_some());
            assert_eq!(span.to_string().parse(), Ok(span), "what is printed can be read");
            let pauses: RetryPauses = format!("1s..{text}").parse().unwrap();
            assert_eq!(pauses.longest, TimeSpan::LONGEST);
        }
        for text in ["18446744073709551615", "2EiB", "9223372036854775807"] {
            let count = text.parse::<ByteCount>().unwrap();
            assert!((count.bytes() / 4).checked_mul(5).is_some(), "{text}");
            assert_eq!(count.to_string().parse(), Ok(count), "what is printed can be read");
        }
    }

    #[test]
    fn reads_pauses() {
        let shown = |text: &str| text.parse::<RetryPauses>().map(|pauses| pauses.to_string());
        assert_eq!(shown("1s..60s"), Ok("1s..1m".into()));
        assert_eq!(shown("50ms .. 1m"), Ok("50ms..1m".into()));
        assert_eq!(shown("5"), Ok("5s..5s".into()));
        for bad in ["", "..", "1s..", "0s..1s", "2s..1s", "1s..2s..3s", "a..b"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_byte_counts() {
        let bytes = |text: &str| text.parse::<ByteCount>().map(|count| count.0);
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert!(bytes("much").is_err());
        assert_eq!(ByteCount(1 << 20).to_string(), "1MiB");
        assert_eq!(ByteCount(1000).to_string(), "1000");
    }
}
