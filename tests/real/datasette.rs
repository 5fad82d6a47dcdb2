//! Datasette over 250,000 rows: slow reads that change only from outside.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::client::{Answer, Client, Served};
use crate::machine::{Backend, Redis, Weir, root};
use crate::report::{Reads, Report, say};
use crate::workload::{Rng, Zipf, assert_same_text, normal, shuffle};
use crate::{alone, amount, skipped};

const CLIENTS: usize = 16;

/// What people ask of the table, most of it slow: facets, sorts without an index, text search, SQL.
fn questions() -> Vec<String> {
    let mut all = Vec::new();
    let table = "/city/requests.json?_size=50";
    for sort in ["_sort_desc=opened_at", "_sort=hours_open", "_sort_desc=priority"] {
        all.push(format!("{table}&{sort}&_facet=category&_facet=district_id&_facet=status"));
        all.push(format!("{table}&{sort}&_facet=channel&_facet=agency_id"));
        all.push(format!("{table}&{sort}&_shape=array"));
    }
    for district in 1..=12 {
        all.push(format!(
            "{table}&district_id={district}&_sort_desc=opened_at&_facet=category&_facet=status"
        ));
        all.push(format!("{table}&district_id={district}&status=open&_sort_desc=priority&_shape=array"));
    }
    for word in ["school", "cyclists", "neighbour", "rain"] {
        all.push(format!("{table}&description__contains={word}&_sort_desc=opened_at&_facet=district_id"));
    }
    for (columns, by) in
        [("district_id,category", "1,2"), ("substr(opened_at,1,7)", "1"), ("street,status", "1,2")]
    {
        all.push(format!(
            "/city.json?_shape=array&sql=select+{columns},count(*)+as+n,avg(hours_open)+as+hours+from+requests+group+by+{by}+order+by+n+desc+limit+100"
        ));
    }
    all.push(format!("{table}&_facet_date=opened_at&agency_id=3"));
    for row in [1, 77_777, 249_999] {
        all.push(format!("/city/requests/{row}.json?_shape=object"));
    }
    all.push("/city/requests.csv?_size=100".to_owned());
    shuffle(&mut all, &mut Rng::new(7));
    all
}

/// `requests` reads by 16 clients at once, the popular questions more often; also which questions were asked.
async fn read_all(addr: std::net::SocketAddr, requests: usize) -> (Reads, BTreeSet<String>) {
    let questions = Arc::new(questions());
    let zipf = Arc::new(Zipf::new(questions.len()));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (questions, zipf) = (questions.clone(), zipf.clone());
            tokio::spawn(async move {
                let (mut client, mut rng) = (Client::new(addr), Rng::new(100 + number as u64));
                let (mut reads, mut asked) = (Reads::default(), BTreeSet::new());
                for _ in 0..requests / CLIENTS {
                    let path = &questions[zipf.pick(&mut rng)];
                    let answer = client.get(path).await;
                    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                    reads.add(&answer);
                    asked.insert(path.clone());
                }
                (reads, asked)
            })
        })
        .collect();
    let (mut reads, mut asked) = (Reads::default(), BTreeSet::new());
    for task in tasks {
        let (r, a) = task.await.unwrap();
        reads.merge(r);
        asked.extend(a);
    }
    (reads, asked)
}

/// An answer without the one member that is never the same twice: how long the query took.
fn content(answer: &Answer) -> Vec<u8> {
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(Value::Object(mut members)) if members.contains_key("query_ms") => {
            members.remove("query_ms");
            serde_json::to_vec(&members).unwrap()
        }
        _ => answer.body.to_vec(),
    }
}

fn assert_same(path: &str, through: &Answer, direct: &Answer) {
    assert_eq!(through.status, direct.status, "{path}");
    let (kept, truth) = (content(through), content(direct));
    let why = format!("{path}: Weir's answer is not Datasette's");
    assert_same_text(&String::from_utf8_lossy(&kept), &String::from_utf8_lossy(&truth), &why);
    for field in ["content-type", "link", "referrer-policy"] {
        assert_eq!(through.header(field), direct.header(field), "{path}: {field}");
    }
}

/// Runs `make_data.py`, as somebody would who loads new rows into the file behind Datasette's back.
fn change(args: &[&str]) {
    let script = root().join("examples/real/datasette/make_data.py");
    let status = Command::new("python3").arg(script).args(args).status().unwrap();
    assert!(status.success(), "make_data.py {args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reads_are_answered_from_the_cache_and_purged_from_outside() {
    if skipped() {
        return;
    }
    let _alone = alone().await;
    let (backend, redis) = (Backend::start("datasette").await, Redis::start().await);
    let weir = Weir::start("datasette", &backend, &redis).await;

    let (without, _) = read_all(backend.addr, amount(64, 640)).await;
    let before = backend.requests_logged("\"GET /city");
    let (with, asked) = read_all(weir.addr, amount(1_600, 16_000)).await;
    let backend_reads = backend.requests_logged("\"GET /city") - before;
    Report { name: "Datasette 0.65", without: &without, with: &with, mutations: 0, backend_reads }.print();

    assert!(with.hits > 0, "no hits: {}", weir.log());
    assert!(
        backend_reads > 0 && backend_reads <= asked.len(),
        "{backend_reads} fetches for {} questions",
        asked.len()
    );

    let (mut through, mut direct) = (Client::new(weir.addr), Client::new(backend.addr));
    for path in &asked {
        let answer = through.get(path).await;
        assert_eq!(answer.served(), Served::Hit, "{path}: {}", answer.header("cache-status"));
        assert_same(path, &answer, &direct.get(&normal(path)).await);
    }
    a_load_from_outside_shows_after_its_purge(&backend, &weir).await;
    a_change_in_one_district_leaves_the_others(&backend, &weir).await;
}

async fn a_load_from_outside_shows_after_its_purge(backend: &Backend, weir: &Weir) {
    let (mut through, mut direct) = (Client::new(weir.addr), Client::new(backend.addr));
    let newest = "/city/requests.json?_shape=array&_size=5&_sort_desc=id";
    let old = through.get(newest).await;
    assert_same(newest, &old, &direct.get(&normal(newest)).await);

    change(&["add", backend.database().to_str().unwrap(), "25"]);
    let held = through.get(newest).await;
    assert_eq!((held.served(), &held.body), (Served::Hit, &old.body), "nobody has told Weir yet");

    let purged = weir.admin("/purge", json!({ "tags": ["database:city"] })).await;
    say(&format!("POST /purge {{\"tags\":[\"database:city\"]}} → {purged}"));
    let new = through.get(newest).await;
    assert_eq!(new.json()[0]["id"], 250_025, "{}", new.text());
    assert_same(newest, &new, &direct.get(&normal(newest)).await);
    assert_eq!(through.get(newest).await.served(), Served::Hit);
}

async fn a_change_in_one_district_leaves_the_others(backend: &Backend, weir: &Weir) {
    let (mut through, mut direct) = (Client::new(weir.addr), Client::new(backend.addr));
    let of = |district: u32| {
        format!(
            "/city/requests.json?_shape=array&_size=1&status__in=open,scheduled&district_id={district}&_sort_desc=id"
        )
    };
    let everywhere =
        "/city/requests.json?_shape=array&_size=1&status__in=open,scheduled&_sort_desc=id".to_owned();
    let paths = [of(1), of(2), everywhere];
    for path in &paths {
        through.get(path).await;
        assert_eq!(through.get(path).await.served(), Served::Hit, "{path}");
    }

    let row = through.get(&paths[0]).await.json()[0]["id"].to_string();
    change(&["close", backend.database().to_str().unwrap(), &row]);
    weir.admin("/purge", json!({ "tags": ["district:1"], "routes": ["sql", "pages", "home"] })).await;

    let kept = through.get(&paths[1]).await;
    assert_eq!(
        kept.served(),
        Served::Hit,
        "another district's page has gone: {}",
        kept.header("cache-status")
    );
    for path in [&paths[0], &paths[2]] {
        let answer = through.get(path).await;
        assert_ne!(answer.served(), Served::Hit, "{path}: {}", answer.header("cache-status"));
        assert_same(path, &answer, &direct.get(&normal(path)).await);
    }
    assert_ne!(
        through.get(&paths[0]).await.json()[0]["id"].to_string(),
        row,
        "the closed request is still listed"
    );
}
