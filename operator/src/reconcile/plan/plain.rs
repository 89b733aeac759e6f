//! Which models other BitTorrent clients may take: those that their ModelCache allows and that the hub gives to everybody.

use std::collections::BTreeMap;

use modelcache_crds::model_cache_node::NodeModel;

use super::Plan;
use crate::reconcile::validate::World;

/// Whether other BitTorrent clients may take a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Plain {
    /// It is not asked for, or the model is not known yet.
    #[default]
    Off,
    /// They may.
    On,
    /// It is asked for, and the model is not for everybody.
    NotPublic(NotPublic),
}

/// Why a model is not for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPublic {
    /// It has a token.
    Token,
    /// Another model that is the same snapshot has one.
    TokenOf(NodeModel),
    /// Its snapshot was resolved with a token, or by a release that did not write down whether it was.
    Snapshot(String),
}

pub(super) fn plan(world: &World, plan: &mut Plan) {
    let mut with_token: BTreeMap<String, NodeModel> = BTreeMap::new();
    for (cache, outlook) in world.caches.iter().zip(&plan.outlooks) {
        for (model, outlook) in cache.models.iter().zip(&outlook.models) {
            if let (Some(facts), Some(_)) = (outlook.state.facts(), &model.secret) {
                let name = NodeModel {
                    cache: cache.name.clone(),
                    model: model.name.clone(),
                };
                with_token.entry(facts.name.clone()).or_insert(name);
            }
        }
    }
    for (cache, outlook) in world.caches.iter().zip(&mut plan.outlooks) {
        for (model, outlook) in cache.models.iter().zip(&mut outlook.models) {
            outlook.plain = match outlook.state.facts() {
                _ if !model.peers.plain_bit_torrent => Plain::Off,
                _ if model.secret.is_some() => Plain::NotPublic(NotPublic::Token),
                None => Plain::Off,
                Some(facts) => match with_token.get(&facts.name) {
                    Some(other) => Plain::NotPublic(NotPublic::TokenOf(other.clone())),
                    None if facts.public => Plain::On,
                    None => Plain::NotPublic(NotPublic::Snapshot(facts.name.clone())),
                },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reconcile::fixtures::{Scene, model};

    /// A ModelCache of the model `m`, the same snapshot each time.
    fn spec(peers: &str, token: &str, suspend: bool) -> String {
        format!(
            "{{suspend: {suspend}, models: [{{name: m, peers: {{plainBitTorrent: {peers}}}, source: {{huggingFace: \
             {{repository: acme/big{token}}}}}}}]}}"
        )
    }

    const TOKEN: &str = ", tokenSecret: {name: t}";

    fn planned(scene: &Scene) -> (Vec<Plain>, bool) {
        let (_, plan) = scene.plan();
        let models = plan.outlooks.iter().flat_map(|outlook| &outlook.models);
        let states = models.map(|model| model.plain.clone()).collect();
        let mut snapshots = plan.nodes.values().flat_map(|node| &node.snapshots);
        let given = snapshots.any(|snapshot| snapshot.plain_bit_torrent);
        (states, given)
    }

    fn known() -> Scene {
        Scene::new().known("acme/big", "big-1")
    }

    #[test]
    fn only_what_is_asked_for_is_given() {
        let off = known().cache("one", &spec("false", "", false));
        assert_eq!(planned(&off), (vec![Plain::Off], false));
        let on = known().cache("one", &spec("true", "", false));
        assert_eq!(planned(&on), (vec![Plain::On], true));
        // One ModelCache that allows it is enough.
        let both = off.cache("two", &spec("true", "", false));
        assert_eq!(planned(&both), (vec![Plain::Off, Plain::On], true));
    }

    #[test]
    fn what_needs_a_token_is_given_to_nobody() {
        let own = known().cache("one", &spec("true", TOKEN, false));
        let refused = Plain::NotPublic(NotPublic::Token);
        assert_eq!(planned(&own), (vec![refused], false));
        // Not even if another ModelCache reads the same without one; also while the first is suspended.
        for suspended in [false, true] {
            let other = known()
                .cache("one", &spec("false", TOKEN, suspended))
                .cache("two", &spec("true", "", false));
            let refused = Plain::NotPublic(NotPublic::TokenOf(model("one", "m")));
            assert_eq!(planned(&other), (vec![Plain::Off, refused], false));
        }
    }

    #[test]
    fn pex_and_dht_are_for_what_is_given() {
        let planned = |scene: &Scene| {
            let (_, plan) = scene.plan();
            let mut snapshots = plan.nodes.values().flat_map(|node| &node.snapshots);
            let snapshot = snapshots.next().unwrap();
            (snapshot.pex, snapshot.dht)
        };
        let one = |more: &str, token| known().cache("one", &spec(more, token, false));
        assert_eq!(planned(&one("true", "")), (false, false));
        assert_eq!(planned(&one("true, pex: true", "")), (true, false));
        assert_eq!(planned(&one("true, dht: true", "")), (false, true));
        // As with plainBitTorrent, one ModelCache that allows it is enough.
        let both = one("true, pex: true", "").cache("two", &spec("true, dht: true", "", false));
        assert_eq!(planned(&both), (true, true));
        let all = "true, pex: true, dht: true";
        assert_eq!(planned(&one(all, TOKEN)), (false, false));
        let alone = "false, pex: true, dht: true";
        assert_eq!(planned(&one(alone, "")), (false, false));
        let other = one(all, "").cache("two", &spec("false", TOKEN, false));
        assert_eq!(planned(&other), (false, false));
    }

    #[test]
    fn what_was_resolved_with_a_token_is_given_to_nobody() {
        let mut scene = known().cache("one", &spec("true", "", false));
        let mut seen = (*scene.picture.snapshots["big-1"]).clone();
        if let Some(facts) = &mut seen.facts {
            facts.public = false;
        }
        let snapshots = &mut scene.picture.snapshots;
        snapshots.insert("big-1".to_owned(), Arc::new(seen));
        let refused = Plain::NotPublic(NotPublic::Snapshot("big-1".to_owned()));
        assert_eq!(planned(&scene), (vec![refused], false));
    }
}
