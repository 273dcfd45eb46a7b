#!/bin/sh
# The secrets of compose.yaml, made once at random, in the volume "secrets". `docker compose down --volumes` forgets them.
set -eu
cd /secrets
[ ! -e done ] || exit 0
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
umask 077
mkdir -p parley
random > postgres_password
echo "$(random)$(random)" > parley/jwt_key
echo "postgresql://parley:$(cat postgres_password)@postgres/parley" > parley/database_url
echo "redis://valkey:6379" > parley/redis_url
key=$(random)
printf '[default]\naws_access_key_id = parley\naws_secret_access_key = %s\n' "$key" > aws
printf 'ROOT_ACCESS_KEY=parley\nROOT_SECRET_KEY=%s\n' "$key" > s3
chown -R 10001:10001 parley aws # as whom the image runs
touch done
