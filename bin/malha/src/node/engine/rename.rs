//! `docker rename`: on networks of the swarm a container goes by its new name too, forwards and backwards.
//!
//! All of it or nothing, as with Docker: where the managers cannot be told, the container keeps the name that it had.

use malha_model::{ApiError, ApiResult, Code, ControlRequest};
use malha_runtime::{ContainerInfo, RuntimeError};
use tracing::warn;

use super::{LocalEngine, record::Record};

impl LocalEngine {
    pub(super) async fn rename(&self, reference: &str, name: &str) -> ApiResult<()> {
        let id = self.runtime.inspect(reference)?.id;
        let _turn = self.renames.take(&id).await;
        let before = self.runtime.inspect(&id)?;
        self.runtime.rename(&before.id, name).await.map_err(refused)?;
        let told = self.tell_name(&before.id).await;
        if told.is_err()
            && let Err(error) = self.runtime.rename(&before.id, &before.name).await
        {
            warn!(container = before.id, %error, "has a name that its networks do not know");
        }
        told
    }

    /// For a container that was given its places as `given`: it may have been renamed since.
    pub(super) async fn follow_name(&self, given: &ContainerInfo) -> ApiResult<()> {
        // Who renames it from now on finds the places and tells by itself.
        if self.runtime.inspect(&given.id)?.name == given.name {
            return Ok(());
        }
        let _turn = self.renames.take(&given.id).await;
        self.tell_name(&given.id).await
    }

    /// Tells the managers what a container is called that has places on their networks.
    async fn tell_name(&self, container: &str) -> ApiResult<()> {
        let info = self.runtime.inspect(container)?;
        let given = self.attached.lock().get(container).is_some_and(|held| !held.is_empty());
        let found = info.state.status.is_running() && !Record::of(&info).attachments.is_empty();
        if !given && !found {
            return Ok(());
        }
        let request = ControlRequest::ContainerRename {
            node: self.swarm.node_id().await.unwrap_or_default(),
            container_id: info.id,
            container_name: info.name,
        };
        match self.swarm.attach(request).await {
            Ok(_) => Ok(()),
            // This node is not theirs any more: nobody there knows the container by any name.
            Err(e) if matches!(e.code, Code::NotFound | Code::PermissionDenied) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Docker says of a rename alone what it was about when the name was taken.
fn refused(error: RuntimeError) -> ApiError {
    let taken = matches!(error, RuntimeError::NameInUse { .. });
    let error = ApiError::from(error);
    if !taken {
        return error;
    }
    ApiError { message: format!("Error when allocating new name: {}", error.message), ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_refused_in_dockers_words() {
        let error = refused(RuntimeError::NameInUse { name: "web".into(), holder: "abc".into() });
        assert_eq!(error.http_status(), 409);
        let start = "Error when allocating new name: Conflict. The container name \"/web\" is already in use";
        assert!(error.message.starts_with(start), "{error}");
        assert_eq!(refused(RuntimeError::NoSuchContainer("x".into())).message, "No such container: x");
    }
}
