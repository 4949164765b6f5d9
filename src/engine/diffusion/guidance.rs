//! [`Guidance`]: how hard the prompt pulls, the same at all noise levels or different ones.
//!
//! Classifier-free guidance (Ho and Salimans 2022) costs a second row per picture. Kynkaanniemi, Aittala, Karras, Laine,
//! Aila and Lehtinen 2024 (arXiv 2404.07724) apply it between two noise levels only, and 1 elsewhere: there the second
//! row is not computed. Their levels are sigmas; here a level is a share of the training timesteps, as everywhere.

use std::fmt;
use std::sync::Arc;

use crate::engine::error::{Error, Result};

/// A text that [`Guidance::parse`] reads.
pub const EXAMPLE: &str = "7@0.2..0.8";

/// Guidance by noise level, 0 (clean) to 1 (noise). Always valid: finite scales, levels in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Guidance {
    /// The same at all levels.
    Constant(f64),
    /// `scale` where `low < level <= high`, 1 elsewhere.
    Interval {
        /// The scale inside.
        scale: f64,
        /// The lower end, 0 to 1; level 0 itself belongs to an interval that begins there.
        low: f64,
        /// The upper end, `low` to 1.
        high: f64,
    },
    /// Level and scale of every step of a run: what a function of the level has said.
    Levels(Arc<[(f64, f64)]>),
}

fn wrong(message: impl Into<String>) -> Error {
    Error::value("cfg", message)
}

fn finite(scale: f64) -> Result<f64> {
    if scale.is_finite() {
        return Ok(scale);
    }
    Err(wrong("cfg must be a finite number").got(scale.to_string()))
}

impl Guidance {
    /// The same at all levels. Errors: not finite.
    pub fn constant(scale: f64) -> Result<Self> {
        Ok(Guidance::Constant(finite(scale)?))
    }

    /// `scale` between two noise levels, 1 elsewhere. `low` = `high` is an empty interval: no guidance at all.
    /// Errors: a scale that is not finite, levels outside 0..1, `low` above `high`.
    pub fn interval(scale: f64, low: f64, high: f64) -> Result<Self> {
        let scale = finite(scale)?;
        if let Some(x) = [low, high].into_iter().find(|x| !(0.0..=1.0).contains(x)) {
            return Err(wrong("an end of the interval of cfg is no noise level")
                .expected("levels between 0 (clean) and 1 (noise)")
                .got(x.to_string())
                .hint(EXAMPLE));
        }
        if low > high {
            return Err(wrong("the interval of cfg is reversed")
                .expected("the lower noise level first")
                .got(format!("{low}..{high}"))
                .hint(format!("{scale}@{high}..{low}")));
        }
        Ok(Guidance::Interval { scale, low, high })
    }

    /// Level and scale per step. Errors: a scale that is not finite.
    pub fn levels(steps: Vec<(f64, f64)>) -> Result<Self> {
        for (_, scale) in &steps {
            finite(*scale)?;
        }
        Ok(Guidance::Levels(steps.into()))
    }

    /// `7`, or `7@0.2..0.8`. Errors: anything else, and what [`Guidance::interval`] refuses.
    pub fn parse(text: &str) -> Result<Self> {
        let number = |part: &str| part.trim().parse::<f64>().ok();
        let read = match text.split_once('@') {
            None => number(text).map(Guidance::constant),
            Some((scale, range)) => range.split_once("..").and_then(|(low, high)| {
                // "0.2..=0.8" is meant the same way: Rhai's closed range.
                let high = high.strip_prefix('=').unwrap_or(high);
                Some(Guidance::interval(number(scale)?, number(low)?, number(high)?))
            }),
        };
        read.unwrap_or_else(|| {
            Err(wrong(format!("cfg cannot be {text:?}"))
                .expected("a number, or a number and an interval of noise levels")
                .got(format!("{text:?}"))
                .hint(EXAMPLE))
        })
    }

    /// The scale at a noise level (a training timestep over their number).
    pub fn at(&self, level: f64) -> f64 {
        match self {
            Guidance::Constant(scale) => *scale,
            Guidance::Interval { scale, low, high } => {
                // The same tolerance as where levels become steps.
                let slack = 1e-9;
                let above = level > low + slack || (*low == 0.0 && *high > 0.0);
                if above && level <= high + slack { *scale } else { 1.0 }
            }
            Guidance::Levels(steps) => steps
                .iter()
                .min_by(|a, b| (a.0 - level).abs().total_cmp(&(b.0 - level).abs()))
                .map_or(1.0, |(_, scale)| *scale),
        }
    }
}

impl fmt::Display for Guidance {
    /// As [`Guidance::parse`] reads it; for a function, from the first step's scale to the last one's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guidance::Constant(scale) => write!(f, "{scale}"),
            Guidance::Interval { scale, low, high } => write!(f, "{scale}@{low}..{high}"),
            Guidance::Levels(steps) => match (steps.first(), steps.last()) {
                (Some(a), Some(b)) => write!(f, "by level, {} to {}", a.1, b.1),
                _ => f.write_str("by level"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_half_open_from_below() {
        let g = Guidance::parse("7@0.2..0.8").unwrap();
        let at = [0.0, 0.2, 0.201, 0.8, 0.801, 1.0].map(|x| g.at(x));
        assert_eq!(at, [1.0, 1.0, 7.0, 7.0, 1.0, 1.0]);
        assert_eq!(g.to_string(), "7@0.2..0.8");
        assert_eq!(Guidance::parse(" 2.5 @ 0 ..= 1 ").unwrap().to_string(), "2.5@0..1");
    }

    #[test]
    fn all_levels_and_none() {
        let (all, none) = (Guidance::parse("7@0..1").unwrap(), Guidance::parse("7@0.5..0.5").unwrap());
        let nothing = Guidance::parse("7@0..0").unwrap();
        for i in 0..1000 {
            let x = f64::from(i) / 1000.0;
            assert_eq!((all.at(x), none.at(x), nothing.at(x)), (7.0, 1.0, 1.0), "{x}");
        }
    }

    #[test]
    fn nonsense_says_what_to_type() {
        for text in ["", "seven", "7@", "7@0.2", "7@a..b", "@0.2..0.8", "7@0.2...8x", "7@0..1@2"] {
            let e = Guidance::parse(text).unwrap_err();
            assert!(e.hint_text().unwrap().contains(EXAMPLE), "{text}: {e}");
        }
        let e = Guidance::parse("7@0.8..0.2").unwrap_err();
        assert_eq!(e.hint_text(), Some("7@0.2..0.8"));
        assert!(Guidance::parse("7@0.2..8").unwrap_err().message().contains("no noise level"));
        assert!(Guidance::parse("inf").is_err() && Guidance::parse("nan@0..1").is_err());
    }

    #[test]
    fn a_function_is_looked_up_at_the_nearest_level() {
        let g = Guidance::levels(vec![(0.9, 7.5), (0.5, 3.0), (0.1, 1.0)]).unwrap();
        assert_eq!([1.0, 0.85, 0.4, 0.0].map(|x| g.at(x)), [7.5, 7.5, 3.0, 1.0]);
        assert_eq!(g.to_string(), "by level, 7.5 to 1");
        assert!(Guidance::levels(vec![(0.5, f64::NAN)]).is_err());
    }
}
