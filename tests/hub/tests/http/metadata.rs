//! Lists, refs and odd repositories.

use modelcache_test_hub::admin::{
    CommitSpec, Effect, Endpoint, Fault, FileSpec, RefSpec, RepositorySpec, Settings,
};
use modelcache_test_hub::content::synthetic;
use reqwest::Client;
use serde_json::{Value, json};

use crate::{MIB, client, get, hub, ranged, text};

#[tokio::test]
async fn metadata() {
    let (hub, commit) = hub().await;
    let info: Value = get(&format!("{}/api/models/org/a?blobs=true", hub.url()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (info["id"].as_str(), info["sha"].as_str()),
        (Some("org/a"), Some(commit.as_str()))
    );
    let model = info["siblings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["rfilename"] == "sub/model.bin")
        .unwrap();
    assert_eq!(model["lfs"]["size"], 3 * MIB + 5);
    for revision in ["main", &commit] {
        let url = format!("{}/api/models/org/a/revision/{revision}", hub.url());
        assert_eq!(
            get(&url).await.json::<Value>().await.unwrap()["sha"],
            commit
        );
    }
    let tree = format!(
        "{}/api/models/org/a/tree/{commit}?recursive=True&expand=False",
        hub.url()
    );
    let tree: Vec<Value> = get(&tree).await.json().await.unwrap();
    assert_eq!(tree.len(), 4);
    let entry = |path: &str| tree.iter().find(|entry| entry["path"] == path).unwrap();
    assert_eq!(entry("sub")["type"], "directory");
    assert_eq!(
        entry("empty.txt")["oid"],
        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    );
    assert_eq!(entry("sub/model.bin")["lfs"]["oid"], model["lfs"]["sha256"]);
    assert!(entry("config.json").get("lfs").is_none());
    let url = format!("{}/api/models/org/a/paths-info/main", hub.url());
    let body = json!({"paths": ["sub", "sub/model.bin", "nothing"], "expand": true});
    let listed = client()
        .post(url)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let listed: Vec<Value> = listed.json().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["lastCommit"]["id"], commit);
}

#[tokio::test]
async fn trees_come_in_pages() {
    let (hub, _) = hub().await;
    let files: Vec<FileSpec> = (0..25)
        .map(|n| FileSpec::text(&format!("d/{n}.txt"), &n.to_string()))
        .collect();
    hub.add_repository(&RepositorySpec {
        files,
        ..RepositorySpec::new("org/many")
    })
    .unwrap();
    hub.set_settings(Settings {
        page_size: 10,
        ..Settings::default()
    })
    .await;
    let mut next = Some(format!(
        "{}/api/models/org/many/tree/main?recursive=true",
        hub.url()
    ));
    let (mut paths, mut pages) = (Vec::new(), 0);
    while let Some(url) = next {
        let response = get(&url).await;
        next = response.headers().get("link").map(|link| {
            let link = link.to_str().unwrap();
            link.strip_prefix('<')
                .unwrap()
                .strip_suffix(">; rel=\"next\"")
                .unwrap()
                .to_owned()
        });
        let page: Vec<Value> = response.json().await.unwrap();
        assert!(page.len() <= 10);
        paths.extend(
            page.iter()
                .map(|entry| entry["path"].as_str().unwrap().to_owned()),
        );
        pages += 1;
    }
    paths.sort();
    paths.dedup();
    assert_eq!(
        (paths.len(), pages),
        (26, 3),
        "25 files and their directory"
    );
    let top: Vec<Value> = get(&format!("{}/api/models/org/many/tree/main", hub.url()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(top.len(), 1, "without recursive: the directory only");
}

#[tokio::test]
async fn refs_renames_and_moving_revisions() {
    let (hub, first) = hub().await;
    let commit = |detached| CommitSpec {
        repository: "org/a".into(),
        branch: "main".into(),
        files: vec![FileSpec::text("new.txt", "new")],
        detached,
        ..CommitSpec::default()
    };
    let second = hub.commit(&commit(true)).unwrap();
    let set = |name: &str, target: &str| {
        hub.set_ref(&RefSpec {
            repository: "org/a".into(),
            name: name.into(),
            target: target.into(),
        })
        .unwrap()
    };
    set("refs/pr/1", &second);
    set("refs/tags/v1", &first);
    let refs = format!(
        "{}/api/models/org/a/refs?include_pull_requests=1",
        hub.url()
    );
    let refs: Value = get(&refs).await.json().await.unwrap();
    assert_eq!(
        refs["branches"][0],
        json!({"name": "main", "ref": "refs/heads/main", "targetCommit": first})
    );
    assert_eq!(refs["tags"][0]["targetCommit"], first);
    assert_eq!(refs["pullRequests"][0]["ref"], "refs/pr/1");
    let url = format!("{}/org/a/resolve/refs%2Fpr%2F1/new.txt", hub.url());
    assert_eq!(text(get(&url).await.headers(), "x-repo-commit"), second);

    hub.add_fault(
        Fault::new(Effect::MoveRef {
            name: "refs/heads/main".into(),
            commit: second.clone(),
        })
        .on(Endpoint::Info)
        .times(1),
    );
    let url = format!("{}/api/models/org/a/revision/main", hub.url());
    assert_eq!(get(&url).await.json::<Value>().await.unwrap()["sha"], first);
    assert_eq!(
        get(&url).await.json::<Value>().await.unwrap()["sha"],
        second
    );

    hub.rename("org/a", "org/b").unwrap();
    let response = get(&format!(
        "{}/api/models/org/a/tree/main?recursive=true",
        hub.url()
    ))
    .await;
    assert_eq!(response.status(), 307);
    assert_eq!(
        text(response.headers(), "location"),
        "/api/models/org/b/tree/main?recursive=true"
    );
    let response = get(&format!("{}/org/a/resolve/main/new.txt", hub.url())).await;
    assert_eq!(
        text(response.headers(), "location"),
        "/org/b/resolve/main/new.txt"
    );
}

#[tokio::test]
async fn odd_repositories() {
    let (hub, _) = hub().await;
    let spec = RepositorySpec::new("odd")
        .text("../evil", "x")
        .text("a b/é%+#?.txt", "odd")
        .file(FileSpec::declared("huge.bin", 100_000_000_000_000))
        .file(FileSpec::synthetic("wrong.bin", 5, 1000).wrong_byte_at(10));
    hub.add_repository(&spec).unwrap();
    let tree: Vec<Value> = get(&format!(
        "{}/api/models/odd/tree/main?recursive=true",
        hub.url()
    ))
    .await
    .json()
    .await
    .unwrap();
    let sizes: Vec<u64> = tree
        .iter()
        .map(|entry| entry["size"].as_u64().unwrap())
        .collect();
    assert!(sizes.contains(&100_000_000_000_000));
    assert!(tree.iter().any(|entry| entry["path"] == "../evil"));
    let following = Client::builder().no_proxy().build().unwrap();
    let odd = format!(
        "{}/odd/resolve/main/a%20b/%C3%A9%25%2B%23%3F.txt",
        hub.url()
    );
    assert_eq!(
        following
            .get(odd)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "odd"
    );
    let wrong = following
        .get(format!("{}/odd/resolve/main/wrong.bin", hub.url()))
        .send()
        .await
        .unwrap();
    let (wrong, right) = (wrong.bytes().await.unwrap(), synthetic(5, 0, 1000));
    assert_ne!(wrong[10], right[10]);
    assert_eq!((&wrong[..10], &wrong[11..]), (&right[..10], &right[11..]));
    let huge = get(&format!("{}/odd/resolve/main/huge.bin", hub.url())).await;
    let location = text(huge.headers(), "location").to_owned();
    assert_eq!(
        get(&location).await.status(),
        400,
        "a huge file without a range"
    );
    assert_eq!(
        ranged(&location, "bytes=99999999999999-")
            .send()
            .await
            .unwrap()
            .status(),
        206
    );
}
