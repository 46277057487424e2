//! `sluice policy check` and `explain` in words.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use sluice_core::explain::{End, Explanation, Nearest, Reason, Side};

use crate::output::{self, Answer};

/// The verdict, and one line for each direction.
pub(super) struct Short<'a>(pub(super) &'a Explanation);

/// The same with the rule that came closest, and every backend.
pub(super) struct Long<'a>(pub(super) &'a Explanation);

impl Serialize for Short<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Long<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Answer for Short<'_> {
    fn text(&self) -> String {
        let answer = self.0;
        let port = answer.port.map(|port| format!(" {port}")).unwrap_or_default();
        let mut text = format!(
            "{}  {} → {}, {}{port}\n",
            answer.verdict,
            end(&answer.from),
            end(&answer.to),
            answer.protocol
        );
        for (name, side, own) in sides(answer) {
            // Writing to a string cannot go wrong.
            let _ = writeln!(text, "  {name:<7}  {:<5}  {}", side.verdict, reason(side, own));
        }
        text
    }
}

impl Answer for Long<'_> {
    fn text(&self) -> String {
        let answer = self.0;
        let mut text = String::new();
        let mut lines = Short(answer).text();
        lines.pop();
        for (index, line) in lines.lines().enumerate() {
            text += line;
            text.push('\n');
            let side = index.checked_sub(1).and_then(|index| sides(answer).into_iter().nth(index));
            let Some((_, side, own)) = side else { continue };
            text += &side.nearest.as_ref().map(nearest_text).unwrap_or_default();
            if let Some(audit) = &side.audit {
                let _ = writeln!(text, "  {:<7}  {:<5}  {}", "audit", audit.verdict, reason(audit, own));
                text += &audit.nearest.as_ref().map(nearest_text).unwrap_or_default();
            }
        }
        if !answer.backends.is_empty() {
            text += "backends\n";
        }
        for backend in &answer.backends {
            let pod = output::or_dash(backend.pod.as_ref());
            let _ = writeln!(text, "  {:<5}  {}  {pod}", backend.verdict, backend.address);
        }
        for end in [&answer.from, &answer.to].into_iter().filter(|end| end.assumed) {
            let pod = output::or_dash(end.pod.as_ref());
            let _ = writeln!(text, "{pod} has no address yet: {} is assumed", end.address);
        }
        text
    }
}

fn sides(answer: &Explanation) -> [(&'static str, &Side, &End); 2] {
    [("egress", &answer.egress, &answer.from), ("ingress", &answer.ingress, &answer.to)]
}

fn end(end: &End) -> String {
    let pod = end.pod.as_ref().map(|pod| format!("{pod} "));
    let node = end.node.as_ref().map(|node| format!(" on {node}"));
    match (pod, node) {
        (None, None) => end.address.to_string(),
        (pod, node) => {
            format!("{}({}{})", pod.unwrap_or_default(), end.address, node.unwrap_or_default())
        }
    }
}

fn reason(side: &Side, own: &End) -> String {
    let own = own.pod.clone().unwrap_or_else(|| own.address.to_string());
    match side.reason {
        Reason::Outside => format!("no policy applies to {own}"),
        Reason::OwnNode => "a pod and its own node always reach each other".to_owned(),
        Reason::Itself => "a pod always reaches itself".to_owned(),
        Reason::NotIsolated => format!("no policy isolates {own}"),
        Reason::Rule => {
            let kind = side.rule.as_ref().map(|rule| rule.kind).filter(|kind| *kind != "NetworkPolicy");
            let kind = kind.map(|kind| format!("{kind} ")).unwrap_or_default();
            format!("rule {kind}{}", output::or_dash(side.rule.as_ref()))
        }
        Reason::NoRule => format!("isolated by {}; {}", side.policies.join(", "), nearest_brief(side)),
        Reason::NoBackend => "the Service has no backend".to_owned(),
    }
}

fn nearest_brief(side: &Side) -> String {
    side.nearest.as_ref().map_or_else(
        || "none has a rule".to_owned(),
        |nearest| {
            let misses: Vec<_> = nearest.misses.iter().map(ToString::to_string).collect();
            format!("nearest rule {} misses on {}", nearest.rule, misses.join(" and "))
        },
    )
}

fn nearest_text(nearest: &Nearest) -> String {
    nearest.needed.iter().map(|needed| format!("                  {needed}\n")).collect()
}
