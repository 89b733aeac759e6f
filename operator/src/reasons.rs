//! Reasons that only the operator gives, besides those of [`modelcache_crds::conditions::reasons`].

/// The object cannot be understood; what was planned for it before stays as it is.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// The volume or the claim of `spec.volumeClaims[]` cannot be made.
pub const VOLUME_CLAIM_FAILED: &str = "VolumeClaimFailed";
/// The API server refuses an object that the plan needs.
pub const WRITE_FAILED: &str = "WriteFailed";
