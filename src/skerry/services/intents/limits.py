"""Named limits on what developers may ask for, and where each number comes from."""

MIB = 1 << 20

SCRIPT_GZIP_BYTES_MAX = 10 * MIB  # Cloudflare's paid plan, over all modules together
SCRIPT_BYTES_MAX = 64 * MIB  # Cloudflare's, before compression
MODULES_MAX = 1000  # a version has to fit into one store record
MODULE_NAME_BYTES_MAX = 512
BINDINGS_MAX = 128  # Cloudflare's: 128 variables and secrets on the paid plan
BINDING_NAME_CHARS_MAX = 255
VARIABLE_BYTES_MAX = 5 * 1024  # Cloudflare's: 5 KB for each variable or secret
COMPATIBILITY_FLAGS_MAX = 100
COMPATIBILITY_FLAG_CHARS_MAX = 100
MESSAGE_CHARS_MAX = 1000  # Cloudflare's annotations: message 1000 (wrangler allows 120), tag 100
TAG_CHARS_MAX = 100
TAGS_MAX = 32
RECORDED_BYTES_MAX = 16 * 1024

ASSET_FILES_MAX = 20_000  # Cloudflare's
ASSET_BYTES_MAX = 25 * MIB  # Cloudflare's, for one file
ASSET_PATH_BYTES_MAX = 1024
ASSET_BUCKET_BYTES = 25 * MIB  # what a client is asked to send in one request (one file may fill it)
ASSET_BUCKET_FILES = 400
ASSET_SESSION_MS = 3_600_000  # Cloudflare's: an hour
ASSET_SESSIONS_MAX = 1000  # open ones of one account
CONTENT_TYPE_CHARS_MAX = 255
HEADERS_FILE_BYTES_MAX = 100 * 1024
REDIRECTS_FILE_BYTES_MAX = 200 * 1024
WORKER_FIRST_RULES_MAX = 100  # Cloudflare's
WORKER_FIRST_RULE_CHARS_MAX = 100  # Cloudflare's

APPS_MAX = 500  # of one account; Cloudflare's paid plan
VERSIONS_KEPT = 100  # Cloudflare's: rollback reaches the 100 newest
DEPLOYMENTS_KEPT = 20  # their versions are kept too
PUBLIC_PORTS_MAX = 100  # of one account, so that no one has all of them
SHARES_MAX = 2  # Cloudflare's: a deployment splits traffic between two versions at most
ATTEMPTS_MAX = 10  # of a transaction that others got in between

IMAGE_LAYERS_MAX = 127  # OverlayFS takes 128 layers from one mount option page, one of them the instance's
IMAGE_BLOB_BYTES_MAX = 4 << 30  # one layer
IMAGE_BYTES_MAX = 16 << 30  # all layers, as they are sent
IMAGE_JSON_BYTES_MAX = 4 * MIB  # a manifest or a configuration; the OCI distribution specification's
IMAGE_NAME_CHARS_MAX = 512
