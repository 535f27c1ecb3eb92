"""A service elsewhere that tells who is who without asking Watchly: it knows where the keys are published.

    python -I tests/http/verifier.py http://127.0.0.1:5000/.well-known/jwks.json

reads tokens, one a line, and says of each whether it takes it. Nothing of Watchly is loaded. It asks for the
keys at each token: they may be kept for five minutes, which no test waits for.
"""

import sys

import jwt


def main(address: str) -> None:
    """Judge the tokens of stdin by the keys at `address`."""
    keys = jwt.PyJWKClient(address, cache_jwk_set=False)
    for line in sys.stdin:
        token = line.strip()
        try:
            claims = jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token),
                algorithms=["ES256"],
                audience="watchly",
                issuer="watchly",
                options={"require": ["exp", "iat", "iss", "aud", "sub", "role", "jti"]},
            )
        except jwt.PyJWTError as error:
            verdict = f"refused: {type(error).__name__}"
        else:
            verdict = f"accepted: sub={claims['sub']} role={claims['role']}"
        sys.stdout.write(f"{verdict}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
