//! How librqbit's requests reach a holder.

use super::*;

/// librqbit says what it wants one request at a time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_said_to_the_holder_in_few_words() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(REQUEST_WINDOW * BLOCK_BYTES, 1);
    let (mut take, _) = request(0, &bytes, 256 << 10, NOWHERE.parse().unwrap());
    let (counted, mut counts) = tokio::sync::mpsc::unbounded_channel();
    let pieces = u32::try_from(take.pieces.as_slice().len()).unwrap();
    take.holder = rogue(move |mut stream| {
        let counted = counted.clone();
        async move {
            claim_everything(&mut stream, pieces).await?;
            let mut said = Vec::with_capacity(16 << 10);
            let (mut parsed, mut requests, mut words) = (0, 0, 0);
            // Nothing is sent, so the last ones wait.
            while requests < REQUEST_WINDOW * 7 / 8 && stream.read_buf(&mut said).await? > 0 {
                words += 1;
                while let Ok(Some((message, len))) = wire::parse(&said[parsed..]) {
                    requests += usize::from(matches!(message, wire::Message::Request(_)));
                    parsed += len;
                }
            }
            let _ = counted.send((requests, words));
            Ok(())
        }
    })
    .await;
    let taking = tokio::spawn(async move { engine.take(take, |_| ()).await });
    let (requests, words) = counts.recv().await.unwrap();
    println!("{words} words for {requests} requests");
    assert!(requests >= REQUEST_WINDOW * 7 / 8, "{requests}");
    assert!(words <= requests / 8, "{words} for {requests} requests");
    taking.abort();
}
