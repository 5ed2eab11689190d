//! A launch's cgroup, and the way into it.

use std::sync::Arc;

use super::Preparation;
use crate::cgroup::Cgroup;
use crate::manifest::model::Container;
use crate::spec::CgroupVersion;
use crate::spec::compile::Parts;

impl Preparation<'_> {
    pub(super) fn cgroup(
        &mut self,
        name: &str,
        kept: &mut Option<Arc<Cgroup>>,
        manifest: &Container,
        parts: &mut Parts,
    ) -> Result<(), String> {
        let cgroup = match kept.take() {
            Some(cgroup) => {
                cgroup.renew().map_err(|error| error.to_string())?;
                cgroup
            }
            None => Arc::new(
                Cgroup::create(&self.workshop.parent, name).map_err(|error| error.to_string())?,
            ),
        };
        let cgroup = kept.insert(cgroup);
        let warnings = cgroup.apply(&manifest.resources).map_err(|error| error.to_string())?;
        self.warnings.extend(warnings);
        parts.cgroup_v1 = self.workshop.parent.v1_mounts(cgroup);
        parts.has_cgroup_v1 = self.workshop.parent.version() != CgroupVersion::V2;
        Ok(())
    }

    /// The way into the cgroup: last, for it may have got a controller more.
    pub(super) fn join(&mut self, cgroup: &Cgroup, parts: &mut Parts) -> Result<(), String> {
        let join = cgroup.join().map_err(|error| error.to_string())?;
        parts.cgroup = join.v2.map(|fd| self.add(fd));
        parts.cgroup_procs = join.v1.into_iter().map(|fd| self.add(fd)).collect();
        Ok(())
    }
}

pub(super) fn restrict_devices(
    cgroup: &Cgroup,
    spec: &oci_spec::runtime::Spec,
) -> Result<(), String> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    match resources.and_then(|resources| resources.devices().as_ref()) {
        Some(rules) => cgroup.restrict_devices(rules).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}
