use std::os::unix::fs::{PermissionsExt, chown};

use super::*;
use crate::list_all;

fn body(text: &str) -> Body {
    Body::new(Bytes::copy_from_slice(text.as_bytes()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn files_are_private_and_nothing_temporary_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    store.put("wal/00000001/segment", body("x")).await.unwrap();
    assert_eq!(mode(&root.path().join("wal/00000001/segment")), 0o600);
    assert_eq!(mode(&root.path().join("wal/00000001")), 0o700);
    let names: Vec<_> = fs::read_dir(root.path().join("wal/00000001"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["segment"]);
}

/// Root alone can see to it; for any other user there is nothing to see to.
#[tokio::test]
async fn what_root_writes_belongs_to_whom_the_directory_belongs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    chown(root.path(), Some(4321), Some(5432)).unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    store.put("wal/00000001/segment", body("x")).await.unwrap();
    for path in ["wal", "wal/00000001", "wal/00000001/segment"] {
        let meta = fs::metadata(root.path().join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (4321, 5432), "{path}");
    }
}

#[tokio::test]
async fn listings_are_sorted_as_keys_and_hide_what_is_unfinished() {
    let root = tempfile::tempdir().unwrap();
    let mut store = DirectoryStore::open(root.path()).unwrap();
    Arc::get_mut(&mut store.inner).unwrap().page = 2;
    let keys = [
        "a", "b-c", "b.d", "b/a", "b/b/c", "b0", "c/d/e", "c/d/f", "c/e",
    ];
    for key in keys {
        store.put(key, body(key)).await.unwrap();
    }
    fs::write(root.path().join("b/.tmp-1234"), "half").unwrap();
    let list = async |prefix: &str| {
        let objects = list_all(&store, prefix).await.unwrap();
        objects
            .into_iter()
            .map(|object| object.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(list("").await, keys);
    assert_eq!(list("b").await, ["b-c", "b.d", "b/a", "b/b/c", "b0"]);
    assert_eq!(list("b/").await, ["b/a", "b/b/c"]);
    assert_eq!(list("c/d/").await, ["c/d/e", "c/d/f"]);
    assert_eq!(list("x/").await, [""; 0]);
    let page = store.list("", Some("b/a")).await.unwrap();
    assert_eq!(page.objects[0].key, "b/b/c");
    assert_eq!(page.next.as_deref(), Some("b0"));
}

#[tokio::test]
async fn empty_directories_below_the_top_go_with_their_last_object() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    store.put("tail/1/a/x", body("x")).await.unwrap();
    store.put("tail/1/b/y", body("y")).await.unwrap();
    store.delete("tail/1/a/x").await.unwrap();
    assert!(!root.path().join("tail/1/a").exists());
    assert!(root.path().join("tail/1/b").exists());
    store.delete("tail/1/b/y").await.unwrap();
    assert!(root.path().join("tail").exists());
    assert!(!root.path().join("tail/1").exists());
    store.put("tail/1/a/x", body("again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_survive_directories_that_fall_empty_under_them() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let key = format!("tail/1/a/{task}-{round}");
                    store.put(&key, body("x")).await.unwrap();
                    store.delete(&key).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(list_all(&store, "").await.unwrap().is_empty());
}

#[test]
fn a_hard_link_does_for_file_systems_that_cannot_rename_without_replacing() {
    let root = tempfile::tempdir().unwrap();
    let (temporary, target) = (root.path().join(".tmp-1"), root.path().join("object"));
    write_durably(root.path(), &temporary, b"first").unwrap();
    link(&temporary, &target).unwrap();
    assert!(!temporary.exists());
    write_durably(root.path(), &temporary, b"second").unwrap();
    let error = link(&temporary, &target).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&target).unwrap(), b"first");
}

#[tokio::test]
async fn a_volume_that_is_gone_is_an_outage_not_an_empty_archive() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("archive");
    let missing = DirectoryStore::open(&root).unwrap_err();
    assert!(matches!(missing, StoreError::Refused { .. }), "{missing}");
    assert!(
        missing.to_string().contains("mount its volume"),
        "{missing}"
    );

    fs::create_dir(&root).unwrap();
    let store = DirectoryStore::open(&root).unwrap();
    store.put("archive.json", body("{}")).await.unwrap();
    // The moved directory keeps its inode, so the new one cannot get the same.
    fs::rename(&root, parent.path().join("elsewhere")).unwrap();
    for replaced in [false, true] {
        if replaced {
            fs::create_dir(&root).unwrap();
        }
        assert!(
            store
                .get("archive.json", None)
                .await
                .unwrap_err()
                .is_transient()
        );
        assert!(store.head("archive.json").await.unwrap_err().is_transient());
        assert!(store.list("", None).await.unwrap_err().is_transient());
        assert!(
            store
                .put("wal/x", body(""))
                .await
                .unwrap_err()
                .is_transient()
        );
        assert!(
            store
                .delete("archive.json")
                .await
                .unwrap_err()
                .is_transient()
        );
    }
    assert!(fs::read_dir(&root).unwrap().next().is_none());
    fs::remove_dir(&root).unwrap();
    fs::rename(parent.path().join("elsewhere"), &root).unwrap();
    assert_eq!(store.get("archive.json", None).await.unwrap(), "{}");
}

/// Over FUSE, CIFS and NFS a directory has another inode after the kernel has forgotten it.
#[tokio::test]
async fn a_directory_with_another_inode_that_holds_the_archive_is_still_the_archive() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("archive");
    fs::create_dir(&root).unwrap();
    let store = DirectoryStore::open(&root).unwrap();
    store.put("archive.json", body("{}")).await.unwrap();
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 1);
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&root, &elsewhere).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("archive.json"), "{\"another\": true}").unwrap();
    assert!(store.list("", None).await.unwrap_err().is_transient());
    fs::copy(elsewhere.join("archive.json"), root.join("archive.json")).unwrap();
    store.put("wal/x", body("x")).await.unwrap();
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 2);
    assert!(store.head("wal/y").await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_in_a_directorys_place_is_refused_with_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("wal"), "not walvault's").unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    let error = store.put("wal/1/x", body("x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let error = store.get("wal/1/x", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_pipe_in_the_place_of_an_object_is_named_and_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).unwrap();
    let pipe = root.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = store.get("pipe", None).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("no regular file"), "{refused}");
}
