//! Users, where peers prove no token: a listener admits those that its rights name, and a client
//! relies on those that it trusts.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use ipcd_transport::{Endpoint, Error, IdentityKind};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use crate::Suite;
use crate::child::ParentLink;
use crate::scene::{TestScene, skip};
use crate::server::TestServer;
use crate::watchdog::Watchdog;

/// A process of another user that connects.
pub(crate) const OTHER_CLIENT: &str = "other client";
/// A process of another user that listens.
pub(crate) const OTHER_SERVER: &str = "other server";
/// That user, and its group.
const OTHER_USER: u32 = 65_534;
/// With this mode every user can connect, also to a FIFO.
const OPEN_TO_ALL: &str = "0622";

/// Without a mode, only the daemon's own user and root can connect; with one, the users that it
/// admits.
pub fn keeps_other_users_out(suite: &Suite) {
    if !can_test(suite) {
        return;
    }
    let scene = shared_scene(suite);
    assert!(!lets_other_user_in(&scene), "peers prove no token, and any user can connect");
    if let Some(scene) = with_option(scene, "mode", OPEN_TO_ALL) {
        assert!(lets_other_user_in(&scene), "{} keeps other users out", scene.endpoint);
    }
}

fn lets_other_user_in(scene: &TestScene) -> bool {
    let listener = scene.listen();
    let mut child = scene.child(OTHER_CLIENT, listener.local());
    // A name has no rights in the kernel: there the listener refuses what it has accepted.
    child.hear() == "connected" && listener.next().is_ok()
}

pub(crate) fn be_another_users_client(suite: &Suite, to: &Endpoint, parent: &ParentLink) {
    become_other_user();
    let connected = suite.transport.connect(to, Watchdog::over("connecting").deadline());
    parent.tell(match &connected {
        Ok(_) => "connected",
        Err(Error::TimedOut(what)) => panic!("{what}: it ended at its deadline only"),
        Err(_) => "refused",
    });
    parent.wait_for_the_end();
}

/// A client connects to no server of another user, unless `owner=` names that user.
pub fn relies_on_no_server_of_another_user(suite: &Suite) {
    if !can_test(suite) {
        return;
    }
    let scene = shared_scene(suite);
    assert!(!relies_on_other_user(&scene), "a client takes the server of any user for the daemon");
    // Files that vouch for their owner are the owner's alone: only root's server can open them.
    let can_serve = suite.transport.capabilities().identity == IdentityKind::Credentials;
    if let Some(scene) = with_option(scene, "owner", &OTHER_USER.to_string()) {
        assert_eq!(relies_on_other_user(&scene), can_serve, "{} is that user's", scene.endpoint);
    }
}

fn relies_on_other_user(scene: &TestScene) -> bool {
    let mut child = scene.child(OTHER_SERVER, &scene.endpoint);
    let local = child.hear().parse().expect("the child says where it listens");
    scene.try_connect(&local).is_ok()
}

pub(crate) fn be_another_users_server(suite: &Suite, at: &Endpoint, parent: &ParentLink) {
    become_other_user();
    let listener = TestServer::start(suite.transport, at).expect("the endpoint is free");
    parent.tell(&listener.local().to_string());
    parent.wait_for_the_end();
}

fn become_other_user() {
    setgroups(&[]).expect("root can give up its groups");
    setgid(Gid::from_raw(OTHER_USER)).expect("root can take another group");
    setuid(Uid::from_raw(OTHER_USER)).expect("root can become another user");
}

fn can_test(suite: &Suite) -> bool {
    let lacks = match suite.transport.capabilities().identity.is_vouched() {
        false => Some("its peers prove a token"),
        true => (!geteuid().is_root()).then_some("only root can act as another user"),
    };
    lacks.inspect(|reason| skip(reason)).is_none()
}

/// A scene whose directory all users can work in, as in `/tmp`: it is not what refuses them.
fn shared_scene(suite: &Suite) -> TestScene {
    let scene = TestScene::new(suite);
    set_permissions(scene.dir(), Permissions::from_mode(0o1777)).expect("the directory is ours");
    scene
}

/// The same scene with an option at its endpoint, if the transport has that option.
fn with_option(mut scene: TestScene, key: &str, value: &str) -> Option<TestScene> {
    let has_option = scene.transport().options().contains(&key);
    scene.endpoint.set_option(key, value);
    has_option.then_some(scene)
}
