//! What a section means as a whole, so that a reload sees what has changed: every value, defaults among them. Where in
//! the file it stands does not count, nor how it is written; nor do the files that it names, which are followed while
//! they are in use.

use super::Resolver;
use crate::config::raw::Section;
use crate::digest::{Digest, Digester};

impl Resolver<'_> {
    /// The digest of a cluster, and that of its TLS alone with the identities that it takes.
    pub(super) fn digests(&self, root: &Section, name: &str, cluster: &Section) -> (Digest, Digest) {
        let mut of_tls = Digester::default();
        // An identity without a name of its own goes by the cluster's.
        of_tls.add(name.as_bytes());
        if let Some(tls) = cluster.section("tls").filter(|_| cluster.is_given("tls")) {
            self.add(tls, &mut of_tls);
            let identities = root.names("identities").iter();
            let used = tls.texts().filter_map(|text| identities.clone().find(|(name, _)| name == text));
            used.for_each(|(_, identity)| self.add(identity, &mut of_tls));
        }
        let mut of_all = of_tls.clone();
        self.add(cluster, &mut of_all);
        (of_all.digest(), of_tls.digest())
    }

    fn add(&self, section: &Section, digester: &mut Digester) {
        section.each_value(&mut |value| digester.add(value.as_bytes()));
        // A relative path means another file when the configuration moves.
        for text in section.texts() {
            digester.add(self.path(text).as_os_str().as_encoded_bytes());
        }
    }
}
