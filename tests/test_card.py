"A detector's card and its file: what is refused, and with which words"
import json
from copy import deepcopy

import numpy as np
import pytest
from safetensors.numpy import save_file

from cifake.serve.card import FORMAT, VERSION, box_card, box_file, check_card, list_detectors, read_card, with_suffix

NETWORK = dict(arch='lenet', outputs=2, objects=1, head='own', hidden=128, dropout=0.3, model_args={})
CARD = dict(format=FORMAT, version=VERSION, name='small', size=32, stats=[[0.5]*3, [0.25]*3], vocab=['FAKE', 'REAL'],
            flip_average=False, network=NETWORK, calibration=dict(temperature=1., threshold=0.5, unsure=[0.5, 0.5]))
FIELDS = [o for o in CARD if o not in ('format', 'version')]


def changed(field, value):
    "`CARD` with one field changed"
    card = deepcopy(CARD)
    parent, _, key = field.rpartition('.')
    (card[parent] if parent else card)[key] = value
    return card


@pytest.mark.parametrize('field, value', [
    ('format', 'other'), ('version', '1'), ('version', True), ('version', None), ('version', 2)])
def test_another_format_or_version_is_refused(field, value):
    with pytest.raises(ValueError, match=field): check_card(changed(field, value))


@pytest.mark.parametrize('field, value', [
    ('name', ''), ('name', 'x'*101), ('size', '32'), ('size', 32.), ('size', True), ('size', 10**400),
    ('stats', None), ('stats', [[0.5]*3]), ('stats', [[float('inf')]*3, [1]*3]), ('stats', [[0.5]*3, [0.25, 0, 0.25]]),
    ('vocab', ['REAL', 'FAKE']), ('vocab', 'FAKE'), ('flip_average', 1), ('network', None), ('network', []),
    ('network.outputs', 3), ('network.objects', 0), ('network.head', 'linear'), ('network.head', []),
    ('network.hidden', 10**6), ('network.dropout', 1), ('network.arch', 'hf_hub:some/thing'),
    ('network.arch', '../../evil'), ('network.model_args', dict(a='__import__')), ('network.model_args', dict(a={})),
    ('network.model_args', dict(widths=[10**9])), ('network.model_args', dict(depth=65)),
    ('network.model_args', dict(a=[1]*17)), ('network.model_args', dict(a=[])), ('network.model_args', []),
    ('network.model_args', {f'a{i}': 1 for i in range(17)}),
    ('calibration', 1), ('calibration.threshold', 1.5), ('calibration.unsure', [0.6, 0.4]),
    ('calibration.unsure', [0.4]), ('calibration.temperature', 0), ('calibration.temperature', float('nan')),
    ('calibration.bias', 'much'), ('calibration.bias', 1000)])
def test_an_impossible_value_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ValueError, match=f'`{field}` in its card'): check_card(changed(field, value))


@pytest.mark.parametrize('field, value', [
    ('network.model_args', dict(widths=[64, 128], drop=0.5, flag=True)), ('network.objects', 10),
    ('calibration.unsure', [0.2, 0.8]), ('calibration.bias', -0.7)])
def test_other_possible_values_are_accepted(field, value):
    assert check_card(changed(field, value)) == changed(field, value)


@pytest.mark.parametrize('value', [None, [], 'text', 3])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match='does not say'): check_card(value)


@pytest.mark.parametrize('field', FIELDS)
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=f'has no `{field}`'): check_card({k: CARD[k] for k in CARD if k != field})


@pytest.fixture
def bare(tmp_path):
    "A file of weights without a card"
    save_file({'bias': np.zeros(3, np.float32)}, tmp_path/'bare.safetensors')
    return tmp_path/'bare.safetensors'


def test_a_card_beside_the_file_is_read(bare):
    bare.with_suffix('.json').write_text(json.dumps(CARD))
    assert read_card(bare) == (CARD, {'bias': (3,)})


@pytest.mark.parametrize('text', ['{', '['*100_000, 'null', '"text"', '{"format": "cifake-detector"}', ''])
def test_a_card_that_is_none_is_refused(bare, text):
    bare.with_suffix('.json').write_text(text)
    with pytest.raises(ValueError, match='cannot be read as a detector'): read_card(bare)


def test_bytes_that_are_no_text_are_refused(bare):
    bare.with_suffix('.json').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='is not JSON'): read_card(bare)


@pytest.fixture
def whole(tmp_path):
    "The bytes of a detector's file"
    file = tmp_path/'whole.safetensors'
    save_file({'bias': np.zeros(3, np.float32)}, file, metadata=dict(card=json.dumps(CARD)))
    return file.read_bytes()


def refused(data, folder):
    "Whether `read_card` refuses a file with these bytes"
    file = folder/'crafted.safetensors'
    file.write_bytes(data)
    with pytest.raises(ValueError, match='cannot be read as a detector'): read_card(file)


BIAS = dict(dtype='F32', shape=[3], data_offsets=[0, 12])


@pytest.mark.parametrize('changes', [
    dict(bias={**BIAS, 'shape': [10**12]}), dict(bias={**BIAS, 'data_offsets': [0, 10**15]}),
    dict(bias={**BIAS, 'data_offsets': [-4, 8]}), dict(bias={**BIAS, 'dtype': 'OBJECT'}), dict(more=BIAS),
    dict(__metadata__=dict(card=3)), dict(__metadata__=dict(card='{}'))])
def test_a_crafted_header_is_refused(whole, tmp_path, changes):
    length = int.from_bytes(whole[:8], 'little')
    text = json.dumps({**json.loads(whole[8:8+length]), **changes}).encode()
    refused(len(text).to_bytes(8, 'little') + text + whole[8+length:], tmp_path)


@pytest.mark.parametrize('damage', [
    lambda o: b'', lambda o: bytes(4), lambda o: o[:-1], lambda o: o[:40], lambda o: o + b'more',
    lambda o: (2**63).to_bytes(8, 'little') + o[8:], lambda o: b'PK\3\4' + o,
    lambda o: (10**7 + 9).to_bytes(8, 'little') + b'{' + b' '*(10**7 + 9),
    lambda o: o[:9] + bytes(int.from_bytes(o[:8], 'little') - 1) + o[8 + int.from_bytes(o[:8], 'little'):]],
    ids=['empty', 'zeros', 'cut by a byte', 'cut in its header', 'longer', 'an endless header', 'a zip',
         'a huge header', 'a header of zeros'])
def test_a_damaged_file_is_refused(whole, tmp_path, damage): refused(damage(whole), tmp_path)


def test_a_path_without_a_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path/'gone.safetensors'):
        with pytest.raises(FileNotFoundError, match='There is no file'): read_card(path)


def test_a_suffix_is_added_and_another_is_refused(tmp_path):
    assert with_suffix(tmp_path/'small', '.bin') == with_suffix(tmp_path/'small.bin', '.bin') == tmp_path/'small.bin'
    with pytest.raises(ValueError, match='another suffix'): with_suffix('small.pkl', '.bin')


@pytest.mark.parametrize('name', list_detectors())
def test_the_files_of_the_package_are_complete(name):
    "They are of format version 1, and stay readable"
    with box_file(name) as file: card, shapes = read_card(file)
    assert card == box_card(name) and card['version'] == 1 and shapes
