//! Selectors: what tells peers apart.
//!
//! Every selector has one canonical text ([`fmt::Display`]): equal meaning up to the order of its parts is equal text,
//! different meaning is different text. Digests in the pinned maps are made of it, so it is a format: a change of it
//! makes a restarted agent rewrite its rule sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use sluice_abi::{Addr, Prefix};

use crate::{object, prefix::in_range};

/// Labels of an object, sorted by key.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Makes labels.
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let index = self.0.binary_search_by(|(candidate, _)| (**candidate).cmp(key)).ok()?;
        Some(&self.0[index].1)
    }
}

/// A label selector; an empty one selects everything.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LabelSelector(BTreeSet<Requirement>);

/// One requirement of a label selector.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Requirement {
    /// The label exists and has one of the values.
    In(String, BTreeSet<String>),
    /// The label does not exist or has another value.
    NotIn(String, BTreeSet<String>),
    /// The label exists.
    Exists(String),
    /// The label does not exist.
    DoesNotExist(String),
}

/// Why a label selector makes no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// An unknown operator.
    #[error("{operator:?} is no operator of a label selector")]
    Operator {
        /// What was given.
        operator: String,
    },
    /// `In` and `NotIn` need values, `Exists` and `DoesNotExist` take none.
    #[error("the operator {operator} on {key} has {count} values")]
    Values {
        /// The operator.
        operator: String,
        /// The label's key.
        key: String,
        /// How many were given.
        count: usize,
    },
    /// A word that no label or port can have.
    #[error("{word:?} is no word of a label or port")]
    Word {
        /// What was given.
        word: String,
    },
}

impl LabelSelector {
    /// Reads a selector.
    ///
    /// # Errors
    /// Any [`SelectorError`].
    pub fn read(selector: &object::LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements = BTreeSet::new();
        for (key, value) in &selector.match_labels {
            requirements.insert(Requirement::In(word(key)?, BTreeSet::from([word(value)?])));
        }
        for expression in &selector.match_expressions {
            requirements.insert(Requirement::read(expression)?);
        }
        Ok(Self(requirements))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether every object with these labels is selected, whatever others it has.
    pub(crate) fn matches_surely(&self, labels: &Labels) -> bool {
        let is_known = |requirement: &Requirement| labels.get(requirement.key()).is_some();
        self.0.iter().all(|requirement| is_known(requirement) && requirement.holds(labels))
    }

    /// Whether an object with these labels and some others may be selected.
    pub(crate) fn may_match(&self, labels: &Labels) -> bool {
        let is_unknown = |requirement: &Requirement| labels.get(requirement.key()).is_none();
        self.0.iter().all(|requirement| is_unknown(requirement) || requirement.holds(labels))
    }

    /// Whether it asks for no label but this one.
    pub(crate) fn is_only_about(&self, key: &str) -> bool {
        self.0.iter().all(|requirement| requirement.key() == key)
    }
}

/// Checks a word for characters that labels and port names cannot have; the canonical text relies on their absence.
pub(crate) fn word(text: &str) -> Result<String, SelectorError> {
    let good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if good { Ok(text.to_owned()) } else { Err(SelectorError::Word { word: text.to_owned() }) }
}

impl Requirement {
    fn read(expression: &object::LabelExpression) -> Result<Self, SelectorError> {
        let object::LabelExpression { key, operator, values } = expression;
        let takes_values = matches!(operator.as_str(), "In" | "NotIn");
        if !takes_values && !matches!(operator.as_str(), "Exists" | "DoesNotExist") {
            return Err(SelectorError::Operator { operator: operator.clone() });
        }
        if takes_values == values.is_empty() {
            let (operator, key) = (operator.clone(), key.clone());
            return Err(SelectorError::Values { operator, key, count: values.len() });
        }
        let key = word(key)?;
        let values = values.iter().map(|value| word(value)).collect::<Result<_, _>>()?;
        Ok(match operator.as_str() {
            "In" => Self::In(key, values),
            "NotIn" => Self::NotIn(key, values),
            "Exists" => Self::Exists(key),
            _ => Self::DoesNotExist(key),
        })
    }

    fn key(&self) -> &str {
        let (Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key)) = self;
        key
    }

    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        separated(f, ", ", &self.0)?;
        f.write_str("}")
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, operator, values) = match self {
            Self::In(key, values) if values.len() == 1 => {
                write!(f, "{key}=")?;
                return separated(f, "", values);
            }
            Self::Exists(key) => return f.write_str(key),
            Self::DoesNotExist(key) => return write!(f, "!{key}"),
            Self::In(key, values) => (key, "in", values),
            Self::NotIn(key, values) => (key, "notin", values),
        };
        write!(f, "{key} {operator} (")?;
        separated(f, ",", values)?;
        f.write_char(')')
    }
}

fn separated<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    separator: &str,
    items: impl IntoIterator<Item = T>,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

/// One peer of a rule.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Peer {
    /// Every address, in the cluster or not.
    Any,
    /// Pods with a network of their own.
    Pods {
        /// Their namespaces.
        namespaces: Namespaces,
        /// Their labels.
        pods: LabelSelector,
    },
    /// Addresses of a range, whoever has them.
    Block(Block),
}

/// Which namespaces.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Namespaces {
    /// The one of that name.
    Named(String),
    /// Those with such labels.
    Matching(LabelSelector),
    /// Those with such labels, and those that may have them, as far as is known.
    Possibly(LabelSelector),
}

/// A range of addresses without its exceptions (`IPBlock`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Block {
    /// The range.
    pub cidr: Prefix,
    /// Ranges within it that are left out.
    pub except: BTreeSet<Prefix>,
}

impl Block {
    /// Whether `addr` lies in the range and in no exception; the two families are apart.
    pub fn contains(&self, addr: &Addr) -> bool {
        self.covers(&Prefix::host(*addr))
    }

    /// Whether `prefix` lies in the range and in no exception; the two families are apart.
    pub(crate) fn covers(&self, prefix: &Prefix) -> bool {
        in_range(&self.cidr, prefix) && !self.except.iter().any(|except| in_range(except, prefix))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Pods { namespaces: Namespaces::Named(name), pods } => write!(f, "pods {name}/{pods}"),
            Self::Pods { namespaces: Namespaces::Matching(labels), pods } => {
                write!(f, "pods {labels}/{pods}")
            }
            Self::Pods { namespaces: Namespaces::Possibly(labels), pods } => {
                write!(f, "pods {labels}?/{pods}")
            }
            Self::Block(block) => {
                write!(f, "cidr {}", block.cidr)?;
                if !block.except.is_empty() {
                    f.write_str(" except ")?;
                    separated(f, ",", &block.except)?;
                }
                Ok(())
            }
        }
    }
}

/// What can tell two addresses apart: a peer, or a peer whose named port has a certain number.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Selector {
    /// Addresses of the peer.
    Peer(Peer),
    /// Pods among them whose port of that name has that number.
    Port {
        /// The peer.
        peer: Peer,
        /// The port's name.
        name: String,
        /// IANA protocol number.
        protocol: u8,
        /// The port's number.
        number: u16,
    },
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Port { peer, name, protocol, number } => {
                write!(f, "{peer} with port {name}/{protocol}={number}")
            }
        }
    }
}
