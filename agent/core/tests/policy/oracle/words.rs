//! Selectors and ranges of addresses, as the API's text has them.

use std::net::IpAddr;

use serde_json::Value;

use super::array;

/// The requirements of a selector: key, operator, values.
pub(super) fn requirements(selector: &Value) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = selector["matchLabels"].as_object();
    let labels =
        labels.into_iter().flatten().map(|(key, value)| (key.clone(), "In".to_owned(), vec![text(value)]));
    let expressions = array(&selector["matchExpressions"]).iter().map(|expression| {
        let values = array(&expression["values"]).iter().map(text).collect();
        (text(&expression["key"]), text(&expression["operator"]), values)
    });
    labels.chain(expressions).collect()
}

/// "operator represents a key's relationship to a set of values. Valid operators are In, NotIn, Exists and DoesNotExist."
pub(super) fn holds(key: &str, operator: &str, values: &[String], labels: &Value) -> bool {
    let label = labels[key].as_str();
    let is_one = label.is_some_and(|label| values.iter().any(|value| value == label));
    match operator {
        "In" => is_one,
        "NotIn" => !is_one,
        "Exists" => label.is_some(),
        _ => label.is_none(),
    }
}

pub(super) fn matches_labels(selector: &Value, labels: &Value) -> bool {
    requirements(selector).iter().all(|(key, operator, values)| holds(key, operator, values, labels))
}

pub(super) fn is_selector(selector: &Value) -> bool {
    requirements(selector).iter().all(|(_, operator, values)| match operator.as_str() {
        "In" | "NotIn" => !values.is_empty(),
        "Exists" | "DoesNotExist" => values.is_empty(),
        _ => false,
    })
}

/// A range of addresses, and its length in bits.
pub(super) fn range(text: &Value) -> Option<(IpAddr, u32)> {
    let (addr, bits) = text.as_str()?.split_once('/')?;
    let (addr, bits): (IpAddr, u32) = (addr.parse().ok()?, bits.parse().ok()?);
    (bits <= if addr.is_ipv4() { 32 } else { 128 }).then_some((addr, bits))
}

pub(super) fn contains(text: &Value, addr: IpAddr) -> bool {
    match (range(text), addr) {
        (Some((IpAddr::V4(start), bits)), IpAddr::V4(addr)) => {
            (start.to_bits() ^ addr.to_bits()).leading_zeros() >= bits
        }
        (Some((IpAddr::V6(start), bits)), IpAddr::V6(addr)) => {
            (start.to_bits() ^ addr.to_bits()).leading_zeros() >= bits
        }
        _ => false,
    }
}
