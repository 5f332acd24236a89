//! The client against a real server.

#[path = "client/server.rs"]
mod server;

#[path = "client/backups.rs"]
mod backups;
#[path = "client/logins.rs"]
mod logins;
#[path = "client/streams.rs"]
mod streams;

use server::Server;
use walvault_harness::cache::installed_majors;
use walvault_harness::needs_servers;
use walvault_protocol::client::{
    BaseBackupOptions, ConnInfo, Mode, Session, SlotName, SlotOptions, StartReplication,
};
use walvault_protocol::{Lsn, TimelineId};

fn slot(name: &str) -> SlotName {
    SlotName::new(name).expect("a slot name")
}

const RESERVED: SlotOptions = SlotOptions {
    temporary: false,
    reserve_wal: true,
};

#[tokio::test]
#[needs_servers]
async fn sql_gives_the_last_result_and_survives_errors() {
    let server = Server::start().await;
    for mut session in [
        server.sql().await,
        server.connect(&server.tcp(), Mode::Regular).await,
    ] {
        let result = session
            .query("select 1; select 'ä' as a, null as b, '' as c")
            .await
            .expect("rows");
        assert_eq!(result.columns, ["a", "b", "c"]);
        assert_eq!(
            (result.text(0, 0), result.text(0, 1), result.text(0, 2)),
            (Some("ä"), None, Some(""))
        );
        let error = session.query("select 1/0").await.expect_err("an error");
        assert_eq!(error.sqlstate(), Some("22012"));
        assert!(session.query("").await.expect("nothing").rows.is_empty());
        session
            .query("do $$ begin raise warning 'mind the gap'; end $$")
            .await
            .expect("done");
        let notices = session.take_notices();
        assert_eq!(
            (notices.len(), notices[0].message.as_str()),
            (1, "mind the gap")
        );
        assert_eq!(
            session.show("wal_segment_size").await.expect("a value"),
            "16MB"
        );
        assert!(session.show("1; drop table x").await.is_err());
        assert_eq!(session.parameter("application_name"), Some("walvault"));
        let rows = session
            .query("select pg_backend_pid()")
            .await
            .expect("a row");
        assert_eq!(
            rows.text(0, 0),
            Some(session.backend_pid().to_string().as_str())
        );
        session.close().await;
    }
}

#[tokio::test]
#[needs_servers]
async fn slots_are_created_read_used_and_dropped_on_every_version() {
    for major in installed_majors() {
        let server = Server::of(major).await;
        let mut session = server.replication().await;
        let identity = session.identify_system().await.expect("an identity");
        assert_eq!((identity.timeline.get(), identity.dbname), (1, None));
        assert!(identity.flushed_lsn.is_valid() && identity.system_id.0 > 0);

        let name = slot("vault");
        session
            .create_physical_slot(&name, RESERVED)
            .await
            .expect("created");
        let again = session
            .create_physical_slot(&name, RESERVED)
            .await
            .expect_err("it exists");
        assert_eq!(again.sqlstate(), Some("42710"));
        if session.server_version().major() >= 15 {
            let position = session
                .read_physical_slot(&name)
                .await
                .expect("read")
                .expect("it exists");
            assert!(
                position
                    .restart_lsn
                    .is_some_and(|lsn| lsn <= identity.flushed_lsn)
            );
            assert_eq!(position.timeline, Some(identity.timeline));
            assert_eq!(
                session
                    .read_physical_slot(&slot("none"))
                    .await
                    .expect("read"),
                None
            );
        } else {
            let error = session
                .read_physical_slot(&name)
                .await
                .expect_err("too old");
            assert!(
                error.to_string().contains("READ_REPLICATION_SLOT"),
                "{error}"
            );
        }

        let other = server.replication().await;
        let stream = other
            .start_replication(Some(&name), identity.flushed_lsn, identity.timeline)
            .await;
        let stream = stream.expect("streaming");
        let busy = server.replication().await;
        let busy = busy
            .start_replication(Some(&name), identity.flushed_lsn, identity.timeline)
            .await;
        let busy = busy.err().expect("in use");
        assert!(busy.is_slot_in_use() && busy.is_transient(), "{busy}");
        drop(stream);

        server::eventually("the slot is free", async || {
            session.drop_slot(&name).await.is_ok()
        })
        .await;
        let gone = session.drop_slot(&name).await.expect_err("gone");
        assert!(gone.is_undefined(), "{gone}");
    }
}

#[test]
fn sessions_move_between_threads() {
    fn sends<T: Send>(_: &T) {}
    let info =
        ConnInfo::parse("host=/nonexistent user=nobody", &|_| None).expect("a connection string");
    sends(&async {
        let session = Session::connect(&info, Mode::Replication).await?;
        let mut backup = session.base_backup(&BaseBackupOptions::default()).await?;
        backup.next().await
    });
    sends(&async {
        let session = Session::connect(&info, Mode::Replication).await?;
        match session
            .start_replication(None, Lsn::INVALID, TimelineId::FIRST)
            .await?
        {
            StartReplication::Streaming(mut stream) => stream.next().await.map(drop),
            StartReplication::TimelineEnded(session, _) => {
                session.close().await;
                Ok(())
            }
        }
    });
}
