use jsonwebtoken::{EncodingKey, Header};
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::config::ProbeConfig;

const RSA: &[u8] = include_bytes!("../../../tests/keys/rsa.pem");
const EC: &[u8] = include_bytes!("../../../tests/keys/p256.pem");
const ED: &[u8] = include_bytes!("../../../tests/keys/ed25519.pem");

fn private(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(EC).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED).unwrap(),
        _ => EncodingKey::from_rsa_pem(RSA).unwrap(),
    }
}

/// A public key as it is published.
fn jwk(algorithm: Algorithm, id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private(algorithm), algorithm).unwrap();
    jwk.common.key_id = Some(id.into());
    serde_json::to_value(jwk).unwrap()
}

fn token(algorithm: Algorithm, id: Option<&str>) -> String {
    let mut header = Header::new(algorithm);
    header.kid = id.map(Into::into);
    let claims = json!({ "exp": 4_000_000_000_u64, "sub": "ann" });
    jsonwebtoken::encode(&header, &claims, &private(algorithm)).unwrap()
}

fn set() -> KeySet {
    let config = JwtConfig {
        jwks_url: Some("http://127.0.0.1:9/".into()),
        ..JwtConfig::default()
    };
    KeySet::new("http://127.0.0.1:9/", &config, Rules::new(&config)).unwrap()
}

fn take(set: &KeySet, keys: &[Value]) -> Result<usize, String> {
    let asked = std::mem::take(&mut set.state.lock().asked);
    let document = json!({ "keys": keys }).to_string();
    set.take(document.as_bytes(), Instant::now(), asked)
}

/// 200, or the status of the refusal.
fn told(set: &KeySet, token: &str) -> u16 {
    match set.find(token) {
        Ok(key) => {
            let decoded = jsonwebtoken::decode::<Value>(token, &key.decoding, &key.validation);
            if decoded.is_ok() { 200 } else { 401 }
        }
        Err(refusal) => refusal.problem().status,
    }
}

#[test]
fn a_key_decides_its_algorithm() {
    use Algorithm::{ES256, EdDSA, RS256, RS512};
    let set = set();
    assert_eq!(
        told(&set, &token(RS256, Some("r"))),
        503,
        "nothing is known yet"
    );
    let mut without = jwk(RS256, "plain");
    without.as_object_mut().unwrap().remove("alg");
    let keys = [jwk(RS512, "r"), jwk(ES256, "e"), jwk(EdDSA, "d"), without];
    assert_eq!(take(&set, &keys), Ok(4));
    for (algorithm, id) in [(RS512, "r"), (ES256, "e"), (EdDSA, "d"), (RS256, "plain")] {
        assert_eq!(told(&set, &token(algorithm, Some(id))), 200, "{id}");
    }
    // The right key under another algorithm is no key.
    assert_ne!(told(&set, &token(RS256, Some("r"))), 200);
    // One key fits a token that names none; two do not.
    assert_eq!(told(&set, &token(ES256, None)), 200);
    take(&set, &[jwk(ES256, "e"), jwk(ES256, "f")]).unwrap();
    assert_eq!(told(&set, &token(ES256, None)), 401);
}

#[test]
fn what_signs_no_tokens_is_passed_over() {
    let set = set();
    let mut encrypts = jwk(Algorithm::RS256, "x");
    encrypts["use"] = json!("enc");
    let secret = json!({ "kty": "oct", "kid": "s", "k": "AAAA", "alg": "HS256" });
    let strange = json!({ "kty": "AKP", "kid": "q", "alg": "ML-DSA-44", "pub": "AA" });
    let mut contrary = jwk(Algorithm::ES256, "c");
    contrary["alg"] = json!("RS256");
    let useless = [encrypts, secret, strange, contrary, json!(7)];
    assert!(take(&set, &useless).is_err());
    let mut all = useless.to_vec();
    all.push(jwk(Algorithm::EdDSA, "good"));
    assert_eq!(take(&set, &all), Ok(1));
    assert_eq!(told(&set, &token(Algorithm::EdDSA, Some("good"))), 200);
    assert!(set.take(b"<html>", Instant::now(), HashSet::new()).is_err());
    // What cannot be used replaces nothing.
    assert_eq!(told(&set, &token(Algorithm::EdDSA, Some("good"))), 200);
}

#[test]
fn an_unknown_key_is_looked_for_once() {
    let set = set();
    let keys = [jwk(Algorithm::EdDSA, "old")];
    take(&set, &keys).unwrap();
    let new = token(Algorithm::EdDSA, Some("new"));
    assert_eq!(told(&set, &new), 503);
    assert_eq!(told(&set, &new), 503, "nobody has looked yet");
    take(&set, &keys).unwrap();
    assert_eq!(told(&set, &new), 401);
    // The next fetch is a new chance.
    take(&set, &keys).unwrap();
    assert_eq!(told(&set, &new), 503);
    take(&set, &[jwk(Algorithm::EdDSA, "new")]).unwrap();
    assert_eq!(told(&set, &new), 200);
    // Whoever names many, or long ones, takes no memory.
    let named = |id: &str| told(&set, &token(Algorithm::EdDSA, Some(id)));
    assert_eq!(named(&"x".repeat(MAX_ID_BYTES + 1)), 401);
    let asked = (0..MAX_ASKED + 10).filter(|n| named(&n.to_string()) == 503);
    assert_eq!(asked.count(), MAX_ASKED);
    assert_eq!(set.state.lock().asked.len(), MAX_ASKED);
}

#[tokio::test(start_paused = true)]
async fn old_keys_are_used_for_a_while_and_readiness_says_when_that_is_over() {
    let set = Arc::new(set());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let readiness = Readiness::new(ProbeConfig::default(), metrics.clone());
    take(&set, &[jwk(Algorithm::EdDSA, "old")]).unwrap();
    let old = token(Algorithm::EdDSA, Some("old"));
    let why = |readiness: &Readiness| format!("{:?}", readiness.report());
    // Nothing listens at that address, so that every fetch fails.
    let keep = KeySet::keep(Arc::downgrade(&set), readiness.clone(), metrics);
    let kept = tokio::spawn(keep);
    time::sleep(set.max_age / 2).await;
    assert_eq!(told(&set, &old), 200);
    assert!(!why(&readiness).contains("keys"), "{}", why(&readiness));
    time::sleep(set.max_age / 2 + LONGEST_BACKOFF * 2).await;
    assert_eq!(told(&set, &old), 503);
    assert!(
        why(&readiness).contains("no keys from"),
        "{}",
        why(&readiness)
    );
    // Nobody needs the keys any more.
    drop(set);
    time::timeout(LONGEST_BACKOFF * 2, kept)
        .await
        .unwrap()
        .unwrap();
}
