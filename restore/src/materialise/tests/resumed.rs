//! Restores that are broken off.

use super::*;

#[tokio::test]
async fn an_interrupted_restore_is_taken_up_and_finished() {
    let files = usual_files();
    let stored = store(usual_directories(), &files, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    let job = stored.job(&pgdata, &[], false);
    break_off(&job).await;
    // As if it had come further: one file is right, one is cut short, one belongs to nobody.
    fs::create_dir_all(pgdata.join("base/1")).expect("made");
    fs::write(pgdata.join("base/1/1259"), &files["base/1/1259"]).expect("written");
    fs::write(pgdata.join("backup_label"), "half").expect("written");
    fs::write(pgdata.join("base/1/stray"), "stray").expect("written");
    let made = stored.restore(&pgdata, &[]).await.expect("finished");
    assert!(
        made.kept_bytes >= 8192 && made.kept_bytes < made.bytes,
        "{made:?}"
    );
    expect_usual(&pgdata, &files);
    assert!(!pgdata.join("walvault-restore.unfinished").exists());

    // What a running restore does is not touched.
    let other = dir.path().join("other");
    let job = stored.job(&other, &[], false);
    let progress = ProgressBar::hidden();
    let one = job.prepare(&progress).await.expect("prepared");
    let _marker = one.site.begin().expect("begun");
    let error = stored.restore(&other, &[]).await.expect_err("it runs");
    assert!(matches!(error, MaterialiseError::Running { .. }), "{error}");
}
