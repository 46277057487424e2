//! What the runtime asks: environment and stdin → [`Request`]. Pure.
//!
//! Start at [`Request::parse`]. Its result is the only thing the commands accept, so they check nothing again.
//!
//! Parameters: CNI specification 1.1.0, section 2, "Parameters" and "CNI operations".

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};

use serde_json::Value;

use crate::{
    attachment::{Attachment, Pod, is_name},
    config::{self, ConfigError, Network, ValidAttachment},
};

/// A version of the CNI specification that this plugin speaks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// 0.3.1: the oldest.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses in results have no `version`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` in results.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The version of answers to requests that name none.
    pub const LATEST: Self = Self::V1_1_0;

    /// As it is written in `cniVersion`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// Value of `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Add a container to the network.
    Add,
    /// Remove it.
    Del,
    /// Check its networking.
    Check,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Could an ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As it is written in `CNI_COMMAND`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The oldest version that has it.
    const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Wire a pod.
    Add {
        /// Which.
        attachment: Attachment,
        /// Its network namespace.
        netns: PathBuf,
    },
    /// Unwire it. The namespace is not needed.
    Del {
        /// Which.
        attachment: Attachment,
    },
    /// Compare it with the result of its ADD.
    Check {
        /// Which.
        attachment: Attachment,
        /// Its network namespace.
        netns: PathBuf,
    },
    /// Unwire all but these.
    Gc {
        /// What stays.
        valid: Vec<ValidAttachment>,
    },
    /// Tell whether an ADD could be served.
    Status,
}

/// A checked request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Which versions are spoken? Answered with the version that was asked in.
    Version {
        /// `cniVersion` as it came.
        asked: String,
    },
    /// Something about a network.
    Network {
        /// Version of the answer.
        version: Version,
        /// The network.
        network: Box<Network>,
        /// What to do.
        command: Command,
    },
}

/// Why a request is not one.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Environment variables that this command needs are absent or empty.
    #[error("required environment variables missing: {}", names.join(", "))]
    Missing {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// An environment variable has a value it cannot have.
    #[error("invalid value of {name}: {value:?}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: OsString,
    },
    /// `CNI_ARGS` has a key nobody knows, and no `IgnoreUnknown`.
    #[error("unknown key {key} in CNI_ARGS (IgnoreUnknown=1 would allow it)")]
    UnknownArgument {
        /// The key.
        key: String,
    },
    /// stdin is not JSON.
    #[error("decoding the network configuration")]
    Json {
        /// Why not.
        source: serde_json::Error,
    },
    /// The configuration is of a version that is not spoken, or lacks the command.
    #[error("{verb} is not served in CNI version {version}")]
    Version {
        /// The command.
        verb: Verb,
        /// `cniVersion`.
        version: String,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The environment variables of a call.
pub type Environment = BTreeMap<String, OsString>;

impl Request {
    /// Understands a call of the runtime.
    ///
    /// Order matters to whoever reads the error: first which command, then whether stdin is JSON, its version, the
    /// other variables, and last the configuration.
    ///
    /// # Errors
    /// [`RequestError`] for the first thing that is wrong.
    pub fn parse(env: &Environment, stdin: &[u8]) -> Result<Self, RequestError> {
        let verb = verb(env)?;
        if verb == Verb::Version && stdin.trim_ascii().is_empty() {
            return Ok(Self::Version { asked: Version::LATEST.text().to_owned() });
        }
        let json: Value = serde_json::from_slice(stdin).map_err(|source| RequestError::Json { source })?;
        // Without `cniVersion` a configuration is of version 0.1.0.
        let asked =
            json.get("cniVersion").map_or(Ok("0.1.0".to_owned()), |v| config::decode("cniVersion", v))?;
        if verb == Verb::Version {
            return Ok(Self::Version { asked });
        }
        let version = Version::ALL.into_iter().find(|version| version.text() == asked);
        let version = version.filter(|version| *version >= verb.since());
        let version = version.ok_or(RequestError::Version { verb, version: asked })?;
        let command = Command::parse(verb, env, &json)?;
        let network = Box::new(Network::parse(&json)?);
        Ok(Self::Network { version, network, command })
    }
}

impl Request {
    /// Version of the answer.
    pub fn version(&self) -> Version {
        match self {
            Self::Version { .. } => Version::LATEST,
            Self::Network { version, .. } => *version,
        }
    }
}

impl Command {
    fn parse(verb: Verb, env: &Environment, json: &Value) -> Result<Self, RequestError> {
        match verb {
            Verb::Add | Verb::Check => {
                let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
                let [container, netns, ifname] = required(env, names)?;
                let pod = Pod::parse(env)?;
                let attachment = Attachment { pod, ..attachment(container, ifname)? };
                let netns = PathBuf::from(netns);
                Ok(if verb == Verb::Add {
                    Self::Add { attachment, netns }
                } else {
                    Self::Check { attachment, netns }
                })
            }
            Verb::Del => {
                let [container, ifname] = required(env, ["CNI_CONTAINERID", "CNI_IFNAME"])?;
                Ok(Self::Del { attachment: attachment(container, ifname)? })
            }
            Verb::Gc => {
                let field = "cni.dev/valid-attachments";
                // `null` is how the reference library writes an empty list; an absent one must not empty the network.
                let list =
                    json.get(field).ok_or_else(|| config::wrong(field, config::FieldProblem::Missing))?;
                let valid: Option<Vec<ValidAttachment>> = config::decode(field, list)?;
                Ok(Self::Gc { valid: valid.unwrap_or_default() })
            }
            Verb::Status | Verb::Version => Ok(Self::Status),
        }
    }
}

impl Pod {
    /// Reads `CNI_ARGS`: `KEY=VALUE;…`, where other keys than ours need `IgnoreUnknown` (the convention of the
    /// reference plugins).
    fn parse(env: &Environment) -> Result<Self, RequestError> {
        const NAME: &str = "CNI_ARGS";
        let Some(args) = present(env, NAME) else { return Ok(Self::default()) };
        let invalid = || RequestError::Invalid { name: NAME, value: args.clone() };
        let text = args.to_str().ok_or_else(invalid)?;
        let mut pod = Self::default();
        let (mut unknown, mut ignore) = (None, false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(invalid)?;
            let value = (!value.is_empty()).then(|| value.to_owned());
            match key {
                "K8S_POD_NAMESPACE" => pod.namespace = value,
                "K8S_POD_NAME" => pod.name = value,
                "K8S_POD_UID" => pod.uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => {
                    ignore = matches!(value.as_deref(), Some("1" | "true" | "True" | "TRUE" | "t" | "T"))
                }
                _ => unknown = unknown.or_else(|| Some(key.to_owned())),
            }
        }
        match unknown {
            Some(key) if !ignore => Err(RequestError::UnknownArgument { key }),
            _ => Ok(pod),
        }
    }
}

fn verb(env: &Environment) -> Result<Verb, RequestError> {
    let name = "CNI_COMMAND";
    let [value] = required(env, [name])?;
    let verb = Verb::ALL.into_iter().find(|verb| value.to_str() == Some(verb.text()));
    verb.ok_or_else(|| RequestError::Invalid { name, value: value.clone() })
}

fn attachment(container: &OsString, ifname: &OsString) -> Result<Attachment, RequestError> {
    let invalid = |name, value: &OsString| RequestError::Invalid { name, value: value.clone() };
    let good_container = container.to_str().filter(|text| is_name(text));
    let good_container = good_container.ok_or_else(|| invalid("CNI_CONTAINERID", container))?;
    let good_ifname = ifname.to_str().ok_or_else(|| invalid("CNI_IFNAME", ifname))?;
    Attachment::new(good_container, good_ifname).ok_or_else(|| invalid("CNI_IFNAME", ifname))
}

fn required<'a, const N: usize>(
    env: &'a Environment,
    names: [&'static str; N],
) -> Result<[&'a OsString; N], RequestError> {
    let missing: Vec<_> = names.into_iter().filter(|name| present(env, name).is_none()).collect();
    let values: Vec<_> = names.into_iter().filter_map(|name| present(env, name)).collect();
    values.try_into().map_err(|_| RequestError::Missing { names: missing })
}

fn present<'a>(env: &'a Environment, name: &str) -> Option<&'a OsString> {
    env.get(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str =
        r#"{"cniVersion":"1.1.0","name":"n","type":"sluice-cni","ipam":{"ranges":[["10.0.0.0/24"]]}}"#;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
    }

    fn add(extra: &[(&str, &str)]) -> Environment {
        let mut all = env(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/n"),
            ("CNI_IFNAME", "eth0"),
        ]);
        all.extend(env(extra));
        all
    }

    fn problem(env: &Environment, stdin: &str) -> String {
        Request::parse(env, stdin.as_bytes()).expect_err("a wrong request").to_string()
    }

    #[test]
    fn pod_names_come_from_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=c;X=y";
        let request = Request::parse(&add(&[("CNI_ARGS", args)]), CONFIG.as_bytes()).expect("a request");
        let Request::Network { command: Command::Add { attachment, .. }, .. } = request else {
            panic!("{request:?}")
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(attachment.pod, Pod { namespace: text("ns"), name: text("p"), uid: text("u") });
        assert!(problem(&add(&[("CNI_ARGS", "X=y")]), CONFIG).contains("unknown key X"));
        assert!(problem(&add(&[("CNI_ARGS", "nothing")]), CONFIG).contains("CNI_ARGS"));
    }

    #[test]
    fn the_wrong_variable_is_named() {
        assert!(problem(&env(&[]), CONFIG).contains("CNI_COMMAND"));
        assert!(problem(&env(&[("CNI_COMMAND", "JUMP")]), CONFIG).contains("CNI_COMMAND"));
        let missing = problem(&env(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]), CONFIG);
        assert!(missing.contains("CNI_CONTAINERID, CNI_NETNS"), "{missing}");
        for id in ["-x", "a/b", "a b", "ü", ".."] {
            assert!(problem(&add(&[("CNI_CONTAINERID", id)]), CONFIG).contains("CNI_CONTAINERID"), "{id}");
        }
        for ifname in ["sixteencharsxxxx", "a/b", "a:b", "a b", ".", "..", "a\u{a0}b"] {
            assert!(problem(&add(&[("CNI_IFNAME", ifname)]), CONFIG).contains("CNI_IFNAME"), "{ifname}");
        }
    }

    #[test]
    fn commands_are_served_from_the_version_that_has_them() {
        for (verb, oldest) in [("ADD", 0), ("DEL", 0), ("CHECK", 1), ("GC", 3), ("STATUS", 3)] {
            for (index, version) in Version::ALL.into_iter().enumerate() {
                let config = CONFIG
                    .replace("1.1.0", version.text())
                    .replace("\"type\"", "\"cni.dev/valid-attachments\":[],\"type\"");
                let request = Request::parse(&add(&[("CNI_COMMAND", verb)]), config.as_bytes());
                assert_eq!(request.is_ok(), index >= oldest, "{verb} in {}: {request:?}", version.text());
            }
        }
        assert!(problem(&add(&[]), r#"{"name":"n"}"#).contains("0.1.0"));
    }

    #[test]
    fn collecting_garbage_without_a_list_is_an_error_and_null_is_an_empty_one() {
        let gc = env(&[("CNI_COMMAND", "GC")]);
        assert!(problem(&gc, CONFIG).contains("valid-attachments"));
        let null = CONFIG.replace("\"type\"", "\"cni.dev/valid-attachments\":null,\"type\"");
        assert!(Request::parse(&gc, null.as_bytes()).is_ok());
    }

    #[test]
    fn deleting_needs_neither_namespace_nor_good_arguments() {
        let mut env = add(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", "broken"), ("CNI_NETNS", "")]);
        assert!(Request::parse(&env, CONFIG.as_bytes()).is_ok());
        env.remove("CNI_NETNS");
        assert!(Request::parse(&env, CONFIG.as_bytes()).is_ok());
    }

    #[test]
    fn a_previous_result_is_for_the_command_to_judge() {
        let chained = CONFIG.replace("\"type\"", "\"prevResult\":7,\"type\"");
        for verb in ["ADD", "DEL", "CHECK"] {
            assert!(Request::parse(&add(&[("CNI_COMMAND", verb)]), chained.as_bytes()).is_ok(), "{verb}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            verb in proptest::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "X"]),
            values in proptest::collection::vec(any::<Vec<u8>>(), 4),
            stdin in any::<Vec<u8>>(),
            patch in any::<(usize, u8)>(),
        ) {
            use std::os::unix::ffi::OsStringExt as _;
            let mut env = env(&[("CNI_COMMAND", verb)]);
            for (name, value) in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"].into_iter().zip(values) {
                env.insert(name.to_owned(), OsString::from_vec(value));
            }
            let _ = Request::parse(&env, &stdin);
            let mut config = CONFIG.as_bytes().to_vec();
            let place = patch.0 % config.len();
            config[place] = patch.1;
            let _ = Request::parse(&env, &config);
            let _ = Request::parse(&add(&[("CNI_COMMAND", verb)]), &config);
        }
    }
}
