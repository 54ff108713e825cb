//! The messages of xDS that are used, with the numbers of Envoy's API (envoy/service/discovery/v3, envoy/config/core/v3 and
//! envoy/config/endpoint/v3, version 3). By hand: the generated ones have 89,000 lines. What is not here is ignored when it comes; what
//! would guard something is here so that it can be refused.

use std::collections::BTreeMap;

/// Who asks.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) cluster: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) metadata: Option<Struct>,
    #[prost(message, optional, tag = "4")]
    pub(crate) locality: Option<Locality>,
    #[prost(string, tag = "6")]
    pub(crate) user_agent_name: String,
    #[prost(string, tag = "7")]
    pub(crate) user_agent_version: String,
}

/// Where something runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Locality {
    #[prost(string, tag = "1")]
    pub(crate) region: String,
    #[prost(string, tag = "2")]
    pub(crate) zone: String,
    #[prost(string, tag = "3")]
    pub(crate) sub_zone: String,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`, as text alone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Value {
    #[prost(oneof = "ValueKind", tags = "3")]
    pub(crate) kind: Option<ValueKind>,
}

/// See [`Value`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(crate) enum ValueKind {
    #[prost(string, tag = "3")]
    Text(String),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeltaDiscoveryRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<Node>,
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub(super) resource_names_unsubscribe: Vec<String>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) initial_resource_versions: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(super) error_detail: Option<Status>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeltaDiscoveryResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    pub(super) removed_resource_names: Vec<ResourceName>,
    #[prost(message, repeated, tag = "9")]
    pub(super) resource_errors: Vec<ResourceError>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ResourceName {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceError {
    #[prost(message, optional, tag = "1")]
    pub(super) resource_name: Option<ResourceName>,
    #[prost(message, optional, tag = "2")]
    pub(super) error_detail: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(message, optional, tag = "8")]
    pub(super) resource_name: Option<ResourceName>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    pub(super) cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) endpoints: Vec<LocalityLbEndpoints>,
    #[prost(message, optional, tag = "4")]
    pub(super) policy: Option<Policy>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Policy {
    #[prost(message, repeated, tag = "2")]
    pub(super) drop_overloads: Vec<DropOverload>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DropOverload {
    #[prost(string, tag = "1")]
    pub(super) category: String,
    #[prost(message, optional, tag = "2")]
    pub(super) drop_percentage: Option<FractionalPercent>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct FractionalPercent {
    #[prost(uint32, tag = "1")]
    pub(super) numerator: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LocalityLbEndpoints {
    #[prost(message, repeated, tag = "2")]
    pub(super) lb_endpoints: Vec<LbEndpoint>,
    #[prost(uint32, tag = "5")]
    pub(super) priority: u32,
    #[prost(message, optional, tag = "7")]
    pub(super) load_balancer_endpoints: Option<Unread>,
    /// Endpoints that another service tells.
    #[prost(message, optional, tag = "8")]
    pub(super) leds_cluster_locality_config: Option<Unread>,
}

/// A message whose fields do not matter, as it is refused, or only counts as there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Unread {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) endpoint: Option<Endpoint>,
    #[prost(int32, tag = "2")]
    pub(super) health_status: i32,
    /// `google.protobuf.UInt32Value`.
    #[prost(message, optional, tag = "4")]
    pub(super) load_balancing_weight: Option<UInt32Value>,
    #[prost(string, tag = "5")]
    pub(super) endpoint_name: String,
}

/// `google.protobuf.UInt32Value`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct UInt32Value {
    #[prost(uint32, tag = "1")]
    pub(super) value: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Endpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(super) socket_address: Option<SocketAddress>,
    #[prost(message, optional, tag = "2")]
    pub(super) pipe: Option<Unread>,
    #[prost(message, optional, tag = "3")]
    pub(super) envoy_internal_address: Option<Unread>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SocketAddress {
    #[prost(int32, tag = "1")]
    pub(super) protocol: i32,
    #[prost(string, tag = "2")]
    pub(super) address: String,
    #[prost(uint32, tag = "3")]
    pub(super) port_value: u32,
    #[prost(string, tag = "4")]
    pub(super) named_port: String,
    #[prost(string, tag = "5")]
    pub(super) resolver_name: String,
    #[prost(string, tag = "7")]
    pub(super) network_namespace_filepath: String,
}

impl Node {
    /// All of it that decides what an answer says.
    pub(crate) fn describe(&self) -> String {
        let Self { id, cluster, metadata, locality, .. } = self;
        let place = locality
            .iter()
            .map(|Locality { region, zone, sub_zone }| format!(" in {region}/{zone}/{sub_zone}"));
        let fields = metadata.iter().flat_map(|metadata| &metadata.fields);
        let fields = fields.filter_map(|(name, value)| {
            value.kind.as_ref().map(|ValueKind::Text(text)| format!(" {name}={text}"))
        });
        format!("{id} of {cluster}{}", place.chain(fields).collect::<String>())
    }
}

impl Struct {
    /// Of texts by name.
    pub(crate) fn of_texts(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let value = |text| Value { kind: Some(ValueKind::Text(text)) };
        Self { fields: texts.into_iter().map(|(name, text)| (name, value(text))).collect() }
    }
}
