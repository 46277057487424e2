//! Namespaces: their labels.

use crate::{
    object::Meta,
    selector::{LabelSelector, Labels},
};

/// What is known of the labels of a namespace.
///
/// Pods may be known before their namespace is, and a folder of objects may hold none at all. Of such a namespace only
/// the label with its name is known; a selector that could turn out either way does not select it, so an absent label
/// never opens anything by `NotIn` or `DoesNotExist`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespaceLabels {
    labels: Labels,
    /// Whether there are no others.
    is_complete: bool,
}

impl NamespaceLabels {
    pub(super) fn read(metadata: &Meta) -> Self {
        Self { labels: labels_of(metadata), is_complete: true }
    }

    pub(super) fn unknown(name: &str) -> Self {
        let metadata = Meta { name: name.to_owned(), ..Meta::default() };
        Self { labels: labels_of(&metadata), is_complete: false }
    }

    /// Whether a `namespaceSelector` selects it, whatever the labels are that are not known.
    pub fn are_selected_by(&self, selector: &LabelSelector) -> bool {
        if self.is_complete { selector.matches(&self.labels) } else { selector.matches_surely(&self.labels) }
    }

    /// Whether a `namespaceSelector` may select it: for all that is known, there are labels with which it would.
    pub fn may_be_selected_by(&self, selector: &LabelSelector) -> bool {
        if self.is_complete { selector.matches(&self.labels) } else { selector.may_match(&self.labels) }
    }
}

/// The label that every namespace has: its name (KEP-2161).
pub(super) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Every namespace has its name as a label (KEP-2161).
fn labels_of(metadata: &Meta) -> Labels {
    let mut labels = metadata.labels.clone();
    labels.insert(NAME_LABEL.to_owned(), metadata.name.clone());
    Labels::new(labels)
}
