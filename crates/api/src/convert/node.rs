//! `swarm.Node`.

use malha_model::Node;
use serde_json::{Value, json};

use super::{extend, swarm_object};

pub(crate) fn node(n: &Node) -> Value {
    let mut map = swarm_object(n.id.as_str(), &n.meta);
    let mut status = json!({ "State": n.status.state });
    if !n.status.message.is_empty() {
        status["Message"] = json!(n.status.message);
    }
    status["Addr"] = json!(n.status.addr);
    extend(&mut map, json!({ "Spec": n.spec, "Description": n.description, "Status": status }));
    if let Some(m) = &n.manager {
        let mut status = json!({});
        if m.leader {
            status["Leader"] = json!(true);
        }
        status["Reachability"] = json!(m.reachability);
        status["Addr"] = json!(m.addr);
        map.insert("ManagerStatus".into(), status);
    }
    map.into()
}
