//! Bounds to what leaves for an address: the keys `max-bytes`, `per` and `beyond` of an egress rule.

use std::fmt;

use monitor_common::{
    Verdict,
    policy::Direction,
    volume::{Limit, LimitKey, MAX_LIMITS},
};

use crate::toml_reader::{At, Fault, Reader, Table};

/// A bound to what leaves for each address that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Most bytes in a span.
    pub bytes: u64,
    /// The span.
    pub per: Span,
    /// What is done beyond: log or deny.
    pub beyond: Verdict,
}

/// How long bytes are counted until the count begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// An hour.
    #[default]
    Hour,
    /// A day.
    Day,
}

impl Span {
    fn hours(self) -> u32 {
        match self {
            Self::Hour => 1,
            Self::Day => 24,
        }
    }
}

impl Bound {
    /// As the kernel has it.
    pub(super) fn limit(self, epoch: u32, rule: u16) -> (LimitKey, Limit) {
        let limit = Limit { bytes: self.bytes, hours: self.per.hours(), beyond: u32::from(self.beyond as u8) };
        (LimitKey { epoch, rule: rule.into() }, limit)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = within(self.per.hours().into());
        write!(to, "beyond {} to one address {span}: {}", bytes(self.bytes), self.beyond.name())
    }
}

/// A span as people say it.
#[must_use]
pub fn within(hours: u64) -> String {
    match hours {
        1 => "in an hour".to_owned(),
        24 => "in a day".to_owned(),
        hours => format!("in {hours} hours"),
    }
}

/// A number of bytes as people say it.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} bytes"),
        Some((unit, shift)) if bytes.is_multiple_of(1 << shift) => format!("{} {unit}", bytes >> shift),
        // In tenths, rounded down.
        Some((unit, shift)) => {
            format!("{}.{} {unit}", bytes >> shift, (bytes & ((1 << shift) - 1)).saturating_mul(10) >> shift)
        }
    }
}

/// The bound of a rule, if it sets one.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    direction: Direction,
    verdict: Option<Verdict>,
) -> Option<Bound> {
    if direction != Direction::Egress {
        return None;
    }
    let [most, per, beyond] = ["max-bytes", "per", "beyond"].map(|key| table.take(key));
    let Some(most) = most else {
        for (key, value) in [("per", per), ("beyond", beyond)] {
            if let Some(value) = value {
                reader.fault(value.span().start, format!("`{key}` goes with `max-bytes` only"));
            }
        }
        return None;
    };
    let at = most.span().start;
    let count = reader.size(most, "`max-bytes`");
    if count == Some(0) {
        reader.fault(at, "`max-bytes` of nothing: verdict = \"deny\" closes an address");
    }
    if verdict.is_some_and(|verdict| verdict >= Verdict::Deny) {
        reader.fault(at, "`max-bytes` goes with verdict = \"allow\" or \"log\": where a rule denies, nothing leaves");
    }
    let span = per.map(|value| (value, reader.string(value, "`per`")));
    let per = match span {
        None | Some((_, None | Some("hour"))) => Span::Hour,
        Some((_, Some("day"))) => Span::Day,
        Some((value, Some(other))) => {
            reader.fault(value.span().start, format!("`per` is \"hour\" or \"day\", not \"{other}\""));
            Span::Hour
        }
    };
    let verdict = beyond.map(|value| (value, reader.string(value, "`beyond`")));
    let beyond = match verdict {
        None | Some((_, None | Some("log"))) => Verdict::Log,
        Some((_, Some("deny"))) => Verdict::Deny,
        Some((value, Some(other))) => {
            reader.fault(
                value.span().start,
                format!("`beyond` is \"log\" or \"deny\", not \"{other}\": the packet hook has no task to kill"),
            );
            Verdict::Log
        }
    };
    Some(Bound { bytes: count?, per, beyond })
}

/// That there is room for one more.
pub(super) fn fits(count: usize, at: At) -> Result<(), Fault> {
    let what = format!("more than {MAX_LIMITS} rules with `max-bytes` in one policy");
    (count < MAX_LIMITS).then_some(()).ok_or(Fault { line: at.line, column: at.column, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Policy, parse::parse};

    const HEAD: &str =
        "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ unit = \"a.service\" }]\nuser-dir = \"/a\"\n";

    fn policy(rule: &str) -> Result<Policy, Vec<Fault>> {
        parse(&format!("{HEAD}{rule}"))
    }

    fn egress(keys: &str) -> Result<Option<Bound>, Vec<Fault>> {
        let policy = policy(&format!("[[instance.egress]]\nto = \"any\"\n{keys}\n"))?;
        Ok(policy.instances[0].nets[0].bound)
    }

    #[test]
    fn a_rule_may_say_how_much_leaves() {
        let log = "verdict = \"log\"\n";
        assert_eq!(egress(log), Ok(None));
        let (bytes, beyond) = (50 << 20, Verdict::Log);
        assert_eq!(egress(&format!("{log}max-bytes = \"50 MiB\"")), Ok(Some(Bound { bytes, per: Span::Hour, beyond })));
        let all = "verdict = \"allow\"\nmax-bytes = \"2GiB\"\nper = \"day\"\nbeyond = \"deny\"";
        assert_eq!(egress(all), Ok(Some(Bound { bytes: 2 << 30, per: Span::Day, beyond: Verdict::Deny })));
    }

    #[test]
    fn a_bound_that_bounds_nothing_is_refused() {
        for (keys, fault) in [
            ("verdict = \"log\"\nmax-bytes = 50", "line 9, column 13: `max-bytes` must be a string, not integer"),
            (
                "verdict = \"log\"\nmax-bytes = \"50 MB\"",
                "line 9, column 13: `max-bytes` is a size like \"64MiB\" or \"4GiB\", not \"50 MB\"",
            ),
            (
                "verdict = \"log\"\nmax-bytes = \"0KiB\"",
                "line 9, column 13: `max-bytes` of nothing: verdict = \"deny\" closes an address",
            ),
            (
                "verdict = \"deny\"\nmax-bytes = \"1MiB\"",
                "line 9, column 13: `max-bytes` goes with verdict = \"allow\" or \"log\": where a rule denies, nothing leaves",
            ),
            ("verdict = \"log\"\nper = \"day\"", "line 9, column 7: `per` goes with `max-bytes` only"),
            ("verdict = \"log\"\nbeyond = \"deny\"", "line 9, column 10: `beyond` goes with `max-bytes` only"),
            (
                "verdict = \"log\"\nmax-bytes = \"1MiB\"\nper = \"week\"",
                "line 10, column 7: `per` is \"hour\" or \"day\", not \"week\"",
            ),
            (
                "verdict = \"log\"\nmax-bytes = \"1MiB\"\nbeyond = \"kill\"",
                "line 10, column 10: `beyond` is \"log\" or \"deny\", not \"kill\": the packet hook has no task to kill",
            ),
        ] {
            let faults = egress(keys).unwrap_err();
            assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), [fault], "{keys}");
        }
        let faults =
            policy("[[instance.ingress]]\nfrom = \"any\"\nverdict = \"log\"\nmax-bytes = \"1MiB\"\n").unwrap_err();
        assert_eq!(faults[0].to_string(), "line 9, column 1: unknown key \"max-bytes\"");
    }

    #[test]
    fn numbers_are_said_as_people_do() {
        for (number, said) in
            [(12, "12 bytes"), (50 << 20, "50 MiB"), ((3 << 20) + (1 << 19), "3.5 MiB"), (1 << 30, "1 GiB")]
        {
            assert_eq!(bytes(number), said);
        }
        assert_eq!((within(1), within(24), within(2)), ("in an hour".into(), "in a day".into(), "in 2 hours".into()));
    }
}
