//! Sizes and times as people write them.

use std::time::Duration;

/// A number and its unit.
fn parts(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    Some((number.parse().ok()?, unit.trim()))
}

/// `500M`, `2G`, `1.5GiB`, plain bytes; in bytes. Errors: anything else, and zero.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || "a size is a number with K, M, G or T, like 2G".to_string();
    let (number, unit) = parts(text).ok_or_else(wrong)?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(power);
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `90s`, `5m`, `1h`, `250ms`, plain seconds. Errors: anything else, and zero.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number with ms, s, m or h, like 90s".to_string();
    let (number, unit) = parts(text).ok_or_else(wrong)?;
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number * factor;
    if (1e-3..1e9).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("1.5 KiB"), Ok(1536));
        assert_eq!(size("500MB"), Ok(500 << 20));
        assert_eq!(size("100"), Ok(100));
        for wrong in ["lots", "-1G", "0", "", "1X", "G", "1e5", "1.2.3G", "99999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("1.5 m"), Ok(Duration::from_secs(90)));
        assert_eq!(time("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(time("3"), Ok(Duration::from_secs(3)));
        for wrong in ["soon", "0", "-1s", "1d", "", "s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
