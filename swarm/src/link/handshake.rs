//! Three messages, all of fixed length for a given number of offers:
//!
//! | from | message |
//! |---|---|
//! | dialer | protocol (8), mode (1), number of offers (1 or 2), a key id each (8), a first Noise message each (48) |
//! | listener | which offer it takes (1), the second Noise message (48); or why it takes none (1), and the end |
//! | dialer | an empty Noise transport message (16) |
//!
//! While one key follows another, the two ends may not know the same ones yet; so the dialer begins a Noise handshake
//! with each of its keys, and the listener goes on with the first that it has. Everything before the Noise messages is
//! the prologue of all of them: a change on the way makes the handshake fail. The last message tells the listener that
//! the first one was not a recording, before it acts on anything.

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::crypto::{Primitives, TAG_BYTES};
use super::stream::Link;
use super::wire::Wire;
use super::{LinkError, Mode, Security};
use crate::secret::{Key, KeyId, Purpose};

/// Name and version of the protocol.
const PROTOCOL: &[u8; 8] = b"mclink/1";
const NOISE: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// A public key and the tag of an empty payload.
const NOISE_BYTES: usize = 32 + TAG_BYTES;
const HEAD_BYTES: usize = PROTOCOL.len() + 2;
const MAX_OFFERS: usize = 2;

/// The listener's answers that are no number of an offer.
const NO_COMMON_KEY: u8 = 0xff;
const MODE_TOO_WEAK: u8 = 0xfe;

impl Mode {
    fn code(self) -> u8 {
        match self {
            Self::Authenticated => 1,
            Self::Encrypted => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Authenticated, Self::Encrypted]
            .into_iter()
            .find(|mode| mode.code() == code)
    }
}

/// The dialer's part.
pub(super) async fn dial<S>(mut stream: S, security: &Security) -> Result<Link<S>, LinkError>
where
    S: Wire,
{
    let (ring, mode) = (security.keys.now(), security.mode);
    let keys: Vec<_> = ring.keys().take(MAX_OFFERS).collect();
    let mut hello = PROTOCOL.to_vec();
    hello.push(mode.code());
    hello.push(u8::try_from(keys.len()).unwrap_or(0));
    for key in &keys {
        hello.extend(key.id().as_bytes());
    }
    let prologue = hello.clone();
    let mut offers = Vec::new();
    for key in keys {
        let mut noise = builder(key, security.purpose, &prologue)?.build_initiator()?;
        hello.extend(message(|out| noise.write_message(&[], out))?);
        offers.push((noise, key.id()));
    }
    stream.write_all(&hello).await?;
    stream.flush().await?;

    let number = stream.read_u8().await?;
    if number == NO_COMMON_KEY {
        return Err(LinkError::UnknownKey);
    }
    if number == MODE_TOO_WEAK {
        return Err(LinkError::TooWeak);
    }
    let offer = offers.into_iter().nth(usize::from(number));
    let (mut noise, key) = offer.ok_or(LinkError::Malformed)?;
    let mut answer = [0; NOISE_BYTES];
    stream.read_exact(&mut answer).await?;
    open(&mut noise, &answer)?;
    let mut noise = noise.into_transport_mode()?;
    let mut proof = [0; TAG_BYTES];
    seal_nothing(&mut noise, &mut proof)?;
    stream.write_all(&proof).await?;
    stream.flush().await?;
    Ok(Link::new(stream, mode, noise, key, security.outlived(key)))
}

/// The listener's part. `on_hello` is called when the first message was made by a member; it may be a recording.
pub(super) async fn accept<S>(
    mut stream: S,
    security: &Security,
    on_hello: impl FnOnce(),
) -> Result<Link<S>, LinkError>
where
    S: Wire,
{
    let ring = security.keys.now();
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let [protocol @ .., mode, count] = head;
    let count = usize::from(count);
    let mode = Mode::from_code(mode).ok_or(LinkError::Malformed)?;
    if protocol != *PROTOCOL || !(1..=MAX_OFFERS).contains(&count) {
        return Err(LinkError::Malformed);
    }
    let mut ids = vec![0; count * KeyId::BYTES];
    stream.read_exact(&mut ids).await?;
    let mut firsts = vec![0; count * NOISE_BYTES];
    stream.read_exact(&mut firsts).await?;
    if mode < security.mode {
        return refuse(stream, MODE_TOO_WEAK, LinkError::TooWeak).await;
    }
    let (offered, _) = ids.as_chunks::<{ KeyId::BYTES }>();
    let (firsts, _) = firsts.as_chunks::<NOISE_BYTES>();
    let known = (0_u8..)
        .zip(offered.iter().zip(firsts))
        .find_map(|(number, (id, first))| {
            let key = ring.by_id(KeyId::from(*id))?;
            Some((number, key, first))
        });
    let Some((number, key, first)) = known else {
        return refuse(stream, NO_COMMON_KEY, LinkError::UnknownKey).await;
    };

    let prologue = [&head[..], &ids].concat();
    let mut noise = builder(key, security.purpose, &prologue)?.build_responder()?;
    open(&mut noise, first)?;
    on_hello();
    let mut answer = vec![number];
    answer.extend(message(|out| noise.write_message(&[], out))?);
    stream.write_all(&answer).await?;
    stream.flush().await?;
    let mut noise = noise.into_transport_mode()?;
    let mut proof = [0; TAG_BYTES];
    stream.read_exact(&mut proof).await?;
    noise
        .read_message(&proof, &mut [])
        .map_err(|_| LinkError::WrongKey)?;
    let key = key.id();
    Ok(Link::new(stream, mode, noise, key, security.outlived(key)))
}

/// Says why, as a help for whoever looks into the other end's log. It is no secret: an outsider learns it anyway from
/// the connection being closed.
async fn refuse<S, T>(mut stream: S, answer: u8, error: LinkError) -> Result<T, LinkError>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(&[answer]).await?;
    stream.shutdown().await?;
    Err(error)
}

fn builder<'a>(
    key: &'a Key,
    purpose: Purpose,
    prologue: &'a [u8],
) -> Result<Builder<'a>, LinkError> {
    let builder = Builder::with_resolver(NOISE.parse()?, Box::new(Primitives));
    Ok(builder.psk(0, key.derive(purpose))?.prologue(prologue)?)
}

/// A Noise handshake message without payload.
fn message(
    write: impl FnOnce(&mut [u8]) -> Result<usize, snow::Error>,
) -> Result<[u8; NOISE_BYTES], LinkError> {
    let mut bytes = [0; NOISE_BYTES];
    if write(&mut bytes)? != NOISE_BYTES {
        return Err(snow::Error::Input.into());
    }
    Ok(bytes)
}

fn open(noise: &mut HandshakeState, message: &[u8; NOISE_BYTES]) -> Result<(), LinkError> {
    // Whatever is wrong with it, the other end did not make it with the key that it named.
    noise
        .read_message(message, &mut [])
        .map_err(|_| LinkError::WrongKey)?;
    Ok(())
}

fn seal_nothing(noise: &mut TransportState, proof: &mut [u8; TAG_BYTES]) -> Result<(), LinkError> {
    if noise.write_message(&[], proof)? != TAG_BYTES {
        return Err(snow::Error::Input.into());
    }
    Ok(())
}
