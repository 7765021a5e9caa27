#!/bin/bash
# Install the S3 server of the tests: OpenStack Swift with its S3 interface, and memcached (Debian or Ubuntu, root).
# .ci/run calls it and then sets VQLOOM_NEED_S3=1, with which the tests fail where they would skip themselves.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../install.sh" tests/s3/install.sh \
    swift swift-proxy swift-account swift-container swift-object memcached
