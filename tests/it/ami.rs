//! The manager client against a server that answers in pieces, late, too much or not at all, in the clear and by TLS.

use std::time::Duration;

use callferry::ami::{Action, AmiError, Client, Connect, Tls};

use crate::support::ami::{encrypted_manager, manager};
use crate::support::server::certificates;

#[tokio::test]
async fn actions_lists_and_events_between() {
    let to = manager(|asked| match asked.get("Action") {
        "PJSIPShowRegistrationsOutbound" => asked
            .list(&["Event: OutboundRegistrationDetail\r\nObjectName: a\r\n".to_owned()])
            .replacen("start\r\n\r\n", "start\r\n\r\nEvent: Hangup\r\nChannel: x\r\n\r\n", 1),
        "Command" => asked.success("Message: Command output follows\r\nOutput: one\r\nOutput: two: 2\r\n"),
        "Ping" => asked.success("Ping: Pong\r\n"),
        _ => asked.refuse("Invalid/unknown command"),
    })
    .await;
    let mut client = Client::connect(&to).await.unwrap();
    assert_eq!(client.version(), "11.0.0");
    let list = client.list(Action::new("PJSIPShowRegistrationsOutbound")).await.unwrap();
    assert_eq!(list.iter().map(|f| f.get("ObjectName")).collect::<Vec<_>>(), [Some("a")]);
    assert_eq!(client.command("x").await.unwrap(), ["one", "two: 2"]);
    client.ping().await.unwrap();
    let AmiError::Refused { message, .. } = client.action(Action::new("Nope")).await.unwrap_err() else { panic!() };
    assert_eq!(message, "Invalid/unknown command");
    // what came in between is there, in order
    assert_eq!(client.event().await.unwrap().event(), Some("FullyBooted"));
    assert_eq!(client.event().await.unwrap().event(), Some("Hangup"));
    // nothing more: waiting is given up without harm
    assert!(tokio::time::timeout(Duration::from_millis(20), client.event()).await.is_err());
    client.ping().await.unwrap();
}

#[tokio::test]
async fn refusals_floods_and_silence() {
    let mut wrong = manager(|_| String::new()).await;
    wrong.secret = "other".to_owned().into();
    assert!(matches!(Client::connect(&wrong).await, Err(AmiError::Login { .. })));
    let mut silent = manager(|_| String::new()).await;
    silent.timeout = Duration::from_millis(300);
    let mut client = Client::connect(&silent).await.unwrap();
    assert!(matches!(client.ping().await, Err(AmiError::Timeout { .. })));
    let flood = manager(|_| format!("X: {}", "y".repeat(200_000))).await;
    let mut client = Client::connect(&flood).await.unwrap();
    assert!(matches!(client.ping().await, Err(AmiError::Protocol(_))));
    let nobody = Connect { port: 1, ..flood };
    assert!(matches!(Client::connect(&nobody).await, Err(AmiError::Connect { .. })));
}

/// The certificate is that of a private authority, for the name `localhost`.
#[tokio::test]
async fn tls_is_verified() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tls, other) = (certificates(ours.path()), certificates(theirs.path()));
    let right = encrypted_manager(&tls).await;
    let mut client = Client::connect(&right).await.unwrap();
    client.ping().await.unwrap();
    let with = |host: &str, tls: Tls| Connect { host: host.to_owned(), tls, ..right.clone() };
    let trusting = |file: std::path::PathBuf| Tls::On { ca_file: Some(file) };
    for (why, to, words) in [
        ("another authority", with("localhost", trusting(other.join("ca.pem"))), "AMI_CA_FILE"),
        ("the system's authorities", with("localhost", Tls::On { ca_file: None }), "AMI_CA_FILE"),
        ("another name", with("127.0.0.1", trusting(tls.join("ca.pem"))), "name 127.0.0.1"),
        ("no such file", with("localhost", trusting(tls.join("none.pem"))), "none.pem"),
        ("no certificate in it", with("localhost", trusting(tls.join("san"))), "holds no certificate"),
        ("no TLS at all", with("localhost", Tls::Off), ""),
    ] {
        let error = Client::connect(&to).await.unwrap_err();
        assert!(!matches!(error, AmiError::Login { .. }), "{why}: {error}");
        assert!(error.to_string().contains(words), "{why}: {error}");
    }
    // a manager without TLS
    let mut plain = manager(|asked| asked.success("")).await;
    plain.tls = trusting(tls.join("ca.pem"));
    assert!(matches!(Client::connect(&plain).await, Err(AmiError::Connect { .. })));
}
