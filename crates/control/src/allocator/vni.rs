//! VXLAN network identifiers: one per subnet, never two alike.

use std::collections::BTreeSet;

use malha_model::{
    ApiError, ApiResult, Code, Network,
    defaults::{FIRST_VNI, LAST_VNI},
};
use malha_store::State;

/// The user's list of identifiers.
pub(crate) const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// Reads the list that `text` is.
pub(crate) fn parse_list(text: &str) -> ApiResult<Vec<u32>> {
    let parse = |part: &str| {
        let vni = part.trim().parse::<u32>().ok().filter(|v| (1..=LAST_VNI).contains(v));
        vni.ok_or_else(|| ApiError::invalid(format!("invalid vxlan id value \"{}\" passed", part.trim())))
    };
    text.split(',').map(parse).collect()
}

/// One identifier for each subnet: the user's, then the following free ones.
pub(crate) fn allocate(state: &State, network: &Network) -> ApiResult<Vec<u32>> {
    let mut used: BTreeSet<u32> = state.networks().flat_map(|n| n.vnis.iter().copied()).collect();
    let mut out = match network.spec.options.get(VNI_OPTION) {
        Some(list) => parse_list(list)?,
        None => Vec::new(),
    };
    if out.len() > network.ipam.len() {
        let (ids, subnets) = (out.len(), network.ipam.len());
        return Err(ApiError::invalid(format!("{ids} vxlan ids given for {subnets} subnets")));
    }
    for vni in &out {
        if !used.insert(*vni) {
            return Err(ApiError::rpc(Code::FailedPrecondition, format!("vxlan id {vni} is already in use")));
        }
    }
    while out.len() < network.ipam.len() {
        let vni = next(&used).ok_or_else(|| ApiError::rpc(Code::FailedPrecondition, "no free vxlan id"))?;
        used.insert(vni);
        out.push(vni);
    }
    Ok(out)
}

/// The one after the highest, so that a freed identifier rests; at the end of the range, the lowest free one.
fn next(used: &BTreeSet<u32>) -> Option<u32> {
    let highest = used.last().copied().unwrap_or(0).max(FIRST_VNI - 1);
    if highest < LAST_VNI {
        return Some(highest + 1);
    }
    (FIRST_VNI..=LAST_VNI).find(|v| !used.contains(v))
}
