//! The CEL rules of the three types: everything that one object's spec can say wrong.
//!
//! Each message says what to write instead, because it is all that a person sees of a refused `kubectl apply`. A rule
//! stands on the field it speaks of where it can, so that the API server names the path. Limits of length and number are
//! in the schema: they bound the cost of these rules, which the API server estimates for the longest input. (That is
//! also why no message is computed: what `filter` finds has no known size, and the estimate explodes.)

use kube::core::{Message, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Most models of one `ModelCache`.
pub(crate) const MODELS_MAX: u32 = 64;
/// Most pools of one `ModelCache`.
pub(crate) const POOLS_MAX: u32 = 32;
/// Most claims of one `ModelCache`.
pub(crate) const CLAIMS_MAX: u32 = 128;
/// Most patterns of one list.
pub(crate) const PATTERNS_MAX: u32 = 32;
/// Longest pattern, in characters.
pub(crate) const PATTERN_LENGTH: u32 = 256;
/// Longest revision, in characters.
pub(crate) const REVISION_LENGTH: u32 = 256;
/// Longest repository name: two parts of 96 characters and the slash, with room for the rule to explain itself.
pub(crate) const REPOSITORY_LENGTH: u32 = 200;
/// Longest base URL of a hub.
pub(crate) const ENDPOINT_LENGTH: u32 = 512;
/// Longest bundle of certificates, in characters.
pub(crate) const CA_BUNDLE_LENGTH: u32 = 49_152;
/// Most files of one `ModelSnapshot`; what the API server can store of one object is reached at about as many.
pub(crate) const FILES_MAX: u32 = 20_000;
/// Longest DNS label.
pub(crate) const LABEL_LENGTH: u32 = 63;
/// Longest DNS subdomain: the name of most objects.
pub(crate) const NAME_LENGTH: u32 = 253;
/// Longest label key: prefix, slash, name.
const LABEL_KEY_LENGTH: u32 = 317;

const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
const LABEL_KEY: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
const REPOSITORY: &str = r"^([A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?/)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$";
const ENDPOINT: &str = concat!(
    r"^https?://([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?",
    r"(/[A-Za-z0-9._~%!$&()*+,;=:@-]+)*$"
);
/// What a revision must not contain: white space and control characters, characters git allows in no reference, `..`,
/// and parts between slashes that are empty or begin with a dot.
const NOT_IN_REVISION: &str = r"[[:space:][:cntrl:]~^:?*\[\\]|\.\.|^[/.]|/[/.]|/$";

// === spec.models ===

/// There is something to hold.
pub(crate) fn models_not_empty() -> Rule {
    Rule::new("self.size() > 0").message(
        "name at least one model, for example {name: minilm, source: {huggingFace: {repository: \
         sentence-transformers/all-MiniLM-L6-v2}}}",
    )
}

/// Names tell models apart.
pub(crate) fn models_unique() -> Rule {
    Rule::new("self.all(m, self.exists_one(o, o.name == m.name))")
        .message("two models have the same name: give each model a name of its own")
}

/// A model stays what it is: pods that mount it by name would get other weights.
pub(crate) fn repository_immutable() -> Rule {
    Rule::new(
        "self.models.all(m, !oldSelf.models.exists(o, o.name == m.name && has(o.source.huggingFace) && \
         has(m.source.huggingFace) && o.source.huggingFace.repository != m.source.huggingFace.repository))",
    )
    .message(
        "the repository of a model cannot be changed: add a model with another name for the other repository, and \
         remove this one when no pod uses it",
    )
    .field_path(".models")
}

/// A model's name is part of labels and paths.
pub(crate) fn model_name() -> Rule {
    dns_label("a model's name", "minilm")
}

/// What needs a token is not for everybody.
pub(crate) fn plain_without_token() -> Rule {
    Rule::new(
        "!self.peers.plainBitTorrent || !has(self.source.huggingFace) || !has(self.source.huggingFace.tokenSecret)",
    )
    .message(
        "plainBitTorrent gives the model to every BitTorrent client that asks, and a model with tokenSecret is not for \
         everybody: remove one of the two",
    )
    .field_path(".peers.plainBitTorrent")
}

/// Peer exchange is spoken on the plain port only.
pub(crate) fn pex_needs_plain() -> Rule {
    needs_plain("pex", "tells BitTorrent clients of each other")
}

/// The DHT leads clients to the plain port.
pub(crate) fn dht_needs_plain() -> Rule {
    needs_plain("dht", "leads BitTorrent clients to the model")
}

fn needs_plain(field: &str, does: &str) -> Rule {
    Rule::new(format!("!self.peers.{field} || self.peers.plainBitTorrent"))
        .message(&*format!(
            "{field} {does}, and none may take it: set plainBitTorrent: true too, or remove {field}"
        ))
        .field_path(format!(".peers.{field}"))
}

/// Exactly one source.
pub(crate) fn one_source() -> Rule {
    Rule::new("has(self.huggingFace)").message(
        "set exactly one source, for example huggingFace: {repository: sentence-transformers/all-MiniLM-L6-v2}",
    )
}

// === spec.models[].source.huggingFace ===

/// The form of a repository's name.
pub(crate) fn repository_form() -> Rule {
    Rule::new(format!("self.matches({})", literal(REPOSITORY))).message(
        "write the repository as the hub does, NAME or NAMESPACE/NAME, without URL: letters, digits, '.', '_' and '-', \
         each part 1 to 96 characters and neither beginning nor ending with '-' or '.'; for example \
         sentence-transformers/all-MiniLM-L6-v2",
    )
}

/// What the hub allows in no name.
pub(crate) fn repository_words() -> Rule {
    Rule::new("!self.contains('--') && !self.contains('..') && !self.endsWith('.git')").message(
        "the hub has no repository with '--' or '..' in its name or '.git' at its end: write the name as in the \
         address of its page, for example sentence-transformers/all-MiniLM-L6-v2",
    )
}

/// The form of a revision.
pub(crate) fn revision() -> Rule {
    Rule::new(format!(
        "self.size() > 0 && !self.matches({})",
        literal(NOT_IN_REVISION)
    ))
    .message(
        "write a branch, a tag, refs/pr/N or a commit, 1 to 256 characters: no white space or control characters, none \
         of ~ ^ : ? * [ \\, no '..', and no part between slashes that is empty or begins with '.'; for example main",
    )
}

/// The form of a pattern.
pub(crate) fn patterns() -> Rule {
    Rule::new("self.all(p, p.size() > 0 && !p.startsWith('/') && !p.startsWith('./') && !p.matches('[[:cntrl:]]'))")
        .message(
            "a pattern is matched against the file's path in the repository and has 1 to 256 characters: write \
             '*.safetensors' or 'onnx/*', with no '/' or './' at the beginning and no control characters",
        )
}

/// The form of a hub's base URL.
pub(crate) fn endpoint() -> Rule {
    Rule::new(format!("self.matches({})", literal(ENDPOINT))).message(
        "write the base URL of the hub: http or https, host, and port or path where it has them, without user, query, \
         fragment or slash at the end; for example https://huggingface.co",
    )
}

/// The form of a bundle of certificates.
pub(crate) fn ca_bundle() -> Rule {
    Rule::new("self.contains('-----BEGIN CERTIFICATE-----') && self.contains('-----END CERTIFICATE-----')").message(
        "write one or more certificates in PEM form, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, as \
         plain text and not in base64",
    )
}

/// What a bundle of certificates must not contain, because everybody who may read a `ModelCache` sees it.
pub(crate) fn ca_bundle_without_key() -> Rule {
    Rule::new("!self.contains('PRIVATE KEY-----')").message(
        "caBundle has a private key: write certificates only, and replace the key, which others may have read",
    )
}

/// The form of a Secret's name.
pub(crate) fn secret_name() -> Rule {
    dns_subdomain(
        "tokenSecret.name",
        "the name of a Secret in the operator's namespace",
        "hub-token",
    )
}

/// The form of a key within a Secret.
pub(crate) fn secret_key() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9._-]+$') && !self.startsWith('..') && self != '.'").message(
        "tokenSecret.key is a key within the Secret's data, of letters, digits, '-', '_' and '.'; for example token",
    )
}

// === spec.nodePools ===

/// Names tell pools apart.
pub(crate) fn pools_unique() -> Rule {
    Rule::new("self.all(p, self.exists_one(o, o.name == p.name))")
        .message("two pools have the same name: give each pool a name of its own")
}

/// A pool's name.
pub(crate) fn pool_name() -> Rule {
    dns_label("a pool's name", "gpu-large")
}

/// Pools hold models of the same object.
pub(crate) fn pool_models_exist() -> Rule {
    Rule::new("self.nodePools.all(p, p.models.all(n, self.models.exists(m, m.name == n)))")
        .message(
            "a pool holds a model that is not in spec.models: write names from there into nodePools[].models, or \
             leave it empty for all",
        )
        .field_path(".nodePools")
}

/// A count.
pub(crate) fn tolerable_failures() -> Rule {
    Rule::new("self >= 0").message("tolerableFailures is a number of nodes: write 0 or more")
}

/// Keys and values of `matchLabels`.
pub(crate) fn match_labels() -> Rule {
    Rule::new(format!(
        "!has(self.matchLabels) || self.matchLabels.all(k, k.size() <= {LABEL_KEY_LENGTH} && k.matches({}) && \
         self.matchLabels[k].matches({}))",
        literal(LABEL_KEY),
        literal(LABEL_VALUE)
    ))
    .message(
        "matchLabels has a key or value that no node can bear: write labels as kubectl get nodes --show-labels prints \
         them, for example {matchLabels: {node.kubernetes.io/instance-type: gpu-large}}",
    )
}

/// The schema of a label selector, with the limits that rules over it need.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels the node must bear, each with its value.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": LABEL_LENGTH},
            },
            "matchExpressions": {
                "description": "Requirements the node must meet, all of them.",
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Label key.",
                            "type": "string",
                            "maxLength": LABEL_KEY_LENGTH,
                            "x-kubernetes-validations": [rule(
                                &format!("self.matches({})", literal(LABEL_KEY)),
                                "write a label key as kubectl get nodes --show-labels prints it, for example \
                                 node.kubernetes.io/instance-type",
                            )],
                        },
                        "operator": {
                            "description": "How the label is compared with `values`.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "Values for In and NotIn.",
                            "type": "array",
                            "maxItems": 32,
                            "items": {
                                "type": "string",
                                "maxLength": LABEL_LENGTH,
                                "x-kubernetes-validations": [rule(
                                    &format!("self.matches({})", literal(LABEL_VALUE)),
                                    "write a label value: at most 63 letters, digits, '-', '_' and '.', beginning and \
                                     ending with a letter or digit",
                                )],
                            },
                        },
                    },
                    "x-kubernetes-validations": [
                        rule(
                            "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                            "operators In and NotIn need values: write at least one, or use Exists or DoesNotExist",
                        ),
                        rule(
                            "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || \
                             self.values.size() == 0",
                            "operators Exists and DoesNotExist take no values: remove them, or use In or NotIn",
                        ),
                    ],
                },
            },
        },
    })
}

// === spec.volumeClaims ===

/// One claim shows one model.
pub(crate) fn claims_unique() -> Rule {
    Rule::new("self.all(c, self.exists_one(o, o.name == c.name && o.__namespace__ == c.__namespace__))")
        .message("two claims have the same namespace and name: a claim shows one model, give each a name of its own")
}

/// Claims show models of the same object.
pub(crate) fn claim_models_exist() -> Rule {
    Rule::new("self.volumeClaims.all(c, self.models.exists(m, m.name == c.model))")
        .message(
            "a claim shows a model that is not in spec.models: write a name from there into volumeClaims[].model",
        )
        .field_path(".volumeClaims")
}

/// A claim's namespace.
pub(crate) fn claim_namespace() -> Rule {
    dns_label("the namespace of a claim", "team-a")
}

/// A claim's name.
pub(crate) fn claim_name() -> Rule {
    dns_subdomain(
        "volumeClaims[].name",
        "the name of a PersistentVolumeClaim",
        "minilm",
    )
}

/// The model a claim shows.
pub(crate) fn claim_model() -> Rule {
    dns_label("the model of a claim", "minilm")
}

// === ModelSnapshot and ModelCacheNode ===

/// A snapshot never changes.
pub(crate) fn snapshot_immutable() -> Rule {
    Rule::new("self == oldSelf").message(
        "a ModelSnapshot never changes: the operator writes a new one for another commit or other files; change the \
         ModelCache instead",
    )
}

/// A `ModelCacheNode` stays with its Node.
pub(crate) fn node_name_immutable() -> Rule {
    Rule::new("self == oldSelf")
        .message("nodeName never changes: the operator writes one ModelCacheNode for each Node")
}

/// A `ModelCacheNode` bears its Node's name, by which the agent finds it and the admission policy checks it.
pub(crate) fn node_name_is_own_name() -> Rule {
    Rule::new("self.metadata.name == self.spec.nodeName")
        .message("a ModelCacheNode bears the name of its Node: write the same in metadata.name and spec.nodeName")
}

fn dns_label(what: &str, example: &str) -> Rule {
    Rule::new(format!("self.matches({})", literal(DNS_LABEL))).message(Message::Message(format!(
        "{what} is a DNS label: at most 63 lower-case letters, digits and '-', beginning and ending with a letter or \
         digit; for example {example}"
    )))
}

fn dns_subdomain(field: &str, what: &str, example: &str) -> Rule {
    Rule::new(format!("self.matches({})", literal(DNS_SUBDOMAIN))).message(Message::Message(format!(
        "{field} is {what}: lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or \
         digit; for example {example}"
    )))
}

/// A regular expression as a CEL string.
fn literal(regex: &str) -> String {
    format!("'{}'", regex.replace('\\', r"\\"))
}

/// A rule within a hand-written schema.
fn rule(expression: &str, message: &str) -> Value {
    json!({"rule": expression, "message": message})
}
