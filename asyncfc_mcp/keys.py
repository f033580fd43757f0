"""Keys for what is sealed by the bridge and comes back to it through clients.

Owns that each purpose has a key of its own, and that replicas with one secret have the same.
"""

import hmac
import secrets

KEY_BYTES = 32


def derived_key(secret: str | None, purpose: str) -> bytes:
    """Return the key for one purpose.

    Args:
        secret: shared by all replicas; None: the key is random, and holds as long as the process.
    """
    if secret is None:
        return secrets.token_bytes(KEY_BYTES)
    return hmac.digest(secret.encode(errors="surrogatepass"), f"asyncfc-mcp/{purpose}".encode(), "sha256")
