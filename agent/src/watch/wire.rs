//! What a typed watch decodes: sluice-core's trimmed object, and beside it the `resourceVersion` the watch needs.
//!
//! **Invariant.** An object is decoded once, straight into its trimmed form; what is not used is skipped, not stored.
//! To that end [`Tee`] stands between the decoder and the object, and copies the version as it passes by.

use std::{borrow::Cow, fmt, marker::PhantomData};

use kube::{
    Resource,
    api::{ApiResource, ObjectMeta},
};
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor,
        value::{MapAccessDeserializer, StringDeserializer},
    },
};
use sluice_core::object::{EndpointSlice, Namespace, NetworkPolicy, Node, Object, ObjectKey, Pod, Service};

/// A kind that is watched.
pub(super) trait Kind:
    DeserializeOwned + Into<Object> + Clone + fmt::Debug + Send + Sync + 'static
{
    /// API group; empty is the core group.
    const GROUP: &'static str;
    /// Its `kind`.
    const KIND: &'static str;
    /// Its name in URLs.
    const PLURAL: &'static str;
}

macro_rules! kinds {
    ($($kind:ident: $group:literal, $plural:literal;)+) => {
        $(impl Kind for $kind {
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($kind);
            const PLURAL: &'static str = $plural;
        })+

        /// Where the API server has an object.
        pub(crate) fn resource(key: &ObjectKey) -> ApiResource {
            match key {
                $(ObjectKey::$kind(_) => ApiResource::erase::<Watched<$kind>>(&()),)+
            }
        }
    };
}

kinds! {
    Pod: "", "pods";
    Namespace: "", "namespaces";
    Node: "", "nodes";
    Service: "", "services";
    EndpointSlice: "discovery.k8s.io", "endpointslices";
    NetworkPolicy: "networking.k8s.io", "networkpolicies";
}

/// An object and its version.
#[derive(Clone, Debug)]
pub(super) struct Watched<T> {
    /// Only `resourceVersion` is filled in; boxed, since the rest is large and empty.
    metadata: Box<ObjectMeta>,
    /// The object.
    pub(super) object: T,
}

impl<T: Kind> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut version = None;
        let object = Seed { path: &["metadata", "resourceVersion"], found: &mut version, inner: PhantomData }
            .deserialize(from)?;
        let metadata = Box::new(ObjectMeta { resource_version: version, ..ObjectMeta::default() });
        Ok(Self { metadata, object })
    }
}

/// Deserialises with `inner` and copies the text at `path`.
struct Seed<'a, S> {
    path: &'static [&'static str],
    found: &'a mut Option<String>,
    inner: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<S::Value, A::Error> {
        let tee = Tee { fields, path: self.path, found: self.found, at: false };
        self.inner.deserialize(MapAccessDeserializer::new(tee))
    }
}

/// Fields on their way to the object.
struct Tee<'a, A> {
    fields: A,
    path: &'static [&'static str],
    found: &'a mut Option<String>,
    /// Whether the next value is the first step of the path.
    at: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Tee<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.fields.next_key::<String>()? else { return Ok(None) };
        self.at = self.path.first() == Some(&name.as_str());
        let name: StringDeserializer<A::Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.path {
            [_] if self.at => {
                let text: String = self.fields.next_value()?;
                *self.found = Some(text.clone());
                let text: StringDeserializer<A::Error> = text.into_deserializer();
                seed.deserialize(text)
            }
            [_, rest @ ..] if self.at => {
                self.fields.next_value_seed(Seed { path: rest, found: self.found, inner: seed })
            }
            _ => self.fields.next_value_seed(seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"kind": "Pod", "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}], "name": "db-0",
        "resourceVersion": "42", "labels": {"app": "db"}}, "spec": {"nodeName": "n1", "containers": []}}"#;

    #[test]
    fn version_and_object_are_decoded_in_one_pass() {
        let watched: Watched<Pod> = serde_json::from_str(POD).expect("a pod");
        assert_eq!(watched.metadata.resource_version.as_deref(), Some("42"));
        assert_eq!(watched.object, serde_json::from_str(POD).expect("the same pod"));
        assert_eq!(watched.object.metadata.labels["app"], "db");
    }

    #[test]
    fn watch_events_are_decoded_whatever_the_order_of_their_fields() {
        use kube::api::WatchEvent;

        for event in
            [format!(r#"{{"type":"ADDED","object":{POD}}}"#), format!(r#"{{"object":{POD},"type":"ADDED"}}"#)]
        {
            let event: WatchEvent<Watched<Pod>> = serde_json::from_str(&event).expect("an event");
            let WatchEvent::Added(watched) = event else { panic!("{event:?}") };
            assert_eq!(watched.metadata.resource_version.as_deref(), Some("42"));
        }
    }

    #[test]
    fn kinds_are_asked_for_under_their_api_paths() {
        assert_eq!(Watched::<Pod>::url_path(&(), None), "/api/v1/pods");
        assert_eq!(
            Watched::<NetworkPolicy>::url_path(&(), None),
            "/apis/networking.k8s.io/v1/networkpolicies"
        );
    }
}
