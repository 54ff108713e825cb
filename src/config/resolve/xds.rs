//! Section `xds`, the control plane, and `endpoints: { xds: … }`, what a cluster has of it.

use std::sync::Arc;

use super::SettingsBuilder;
use super::endpoint::ClusterContext;
use super::remote_source::{accepts_empty, owned, shown, texts, to_target};
use crate::cluster::{ControlPlane, OriginKind, RemoteQuestion, RemoteSource, XdsQuestion};
use crate::config::raw::Section;
use crate::xds::{Locality, Node, Struct};

/// Section `xds`, as far as it is there.
#[derive(Debug, Default)]
pub(in crate::config) enum XdsSection {
    #[default]
    Absent,
    /// With mistakes, which are told.
    Wrong,
    Good(Arc<ControlPlane>, Arc<Node>),
}

impl SettingsBuilder<'_> {
    pub(super) fn xds(&mut self, root: &Section) -> XdsSection {
        if !root.is_given("xds") {
            return XdsSection::Absent;
        }
        let good = root.section("xds").and_then(|xds| {
            let (control_plane, node) = (self.control_plane(xds), self.node(xds));
            Some((control_plane?, node?))
        });
        good.map_or(XdsSection::Wrong, |(control_plane, node)| {
            XdsSection::Good(Arc::new(control_plane), Arc::new(node))
        })
    }

    pub(super) fn warn_of_unused_control_plane(&mut self, root: &Section) {
        let asks = |cluster: &Section| {
            cluster.section("endpoints").is_some_and(|endpoints| endpoints.is_given("xds"))
        };
        if root.is_given("xds") && !root.names("clusters").iter().any(|(_, cluster)| asks(cluster)) {
            self.findings.warning(&root.at("xds"), "no cluster has its endpoints from there");
        }
    }

    fn control_plane(&mut self, xds: &Section) -> Option<ControlPlane> {
        let servers = self.remote_servers(xds, "servers");
        let token = self.remote_secret(xds, "token");
        let roots = self.remote_roots(xds, servers.as_deref());
        Some(ControlPlane { servers: servers?, roots: roots?, token: token? })
    }

    fn node(&mut self, xds: &Section) -> Option<Node> {
        let node = xds.section("node")?;
        let metadata: Vec<_> = texts(node, "metadata")?
            .into_iter()
            .map(|text| {
                let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
                let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
                if pair.is_none() {
                    let words = format!("{} is not of the form NAME=VALUE", text.escape_default());
                    self.findings.mistake(&node.at("metadata"), words);
                }
                pair
            })
            .collect();
        let metadata = metadata.into_iter().collect::<Option<Vec<_>>>()?;
        let part = |key: &str| Some(owned(node, key)?.unwrap_or_default());
        let locality = Locality { region: part("region")?, zone: part("zone")?, sub_zone: part("sub_zone")? };
        Some(Node {
            id: owned(node, "id")?.unwrap_or_else(|| self.host.name()),
            cluster: node.text("cluster")?.to_owned(),
            metadata: (!metadata.is_empty()).then(|| Struct::of_texts(metadata)),
            locality: (locality != Locality::default()).then_some(locality),
            user_agent_name: "ambassador".into(),
            user_agent_version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    pub(super) fn xds_endpoints(
        &mut self,
        section: &Section,
        around: &ClusterContext,
    ) -> Option<RemoteSource> {
        let service = owned(section, "service")?;
        let resource = service.unwrap_or_else(|| around.name.clone());
        let wrong = match &*resource {
            "" => Some("is empty"),
            "*" => Some("stands for all clusters of the control plane, and is the name of none"),
            name if name.starts_with("xdstp:") => Some("is a name of xDS federation, which is not supported"),
            _ => None,
        };
        if let Some(words) = wrong {
            self.findings.mistake(&section.at("service"), words);
            return None;
        }
        let (control_plane, node) = match &self.xds {
            XdsSection::Good(control_plane, node) => (Arc::clone(control_plane), Arc::clone(node)),
            XdsSection::Wrong => return None,
            XdsSection::Absent => {
                let words =
                    "needs the section `xds` at the top of the file, which says who the control plane is";
                self.findings.mistake(&section.at, words);
                return None;
            }
        };
        Some(RemoteSource {
            kind: OriginKind::Xds,
            name: resource.clone(),
            control_plane,
            accepts_empty: accepts_empty(section)?,
            server_name: shown(around),
            question: RemoteQuestion::Xds(XdsQuestion { node, resource, to_target: to_target(around) }),
        })
    }
}
