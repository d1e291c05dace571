"Recipes: wrong values are refused by name, small sets get smaller batches, JSON is read back"
import json
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
import torch

from cifake.training.recipes import RECIPES, Recipe, fit_to, get_recipe, list_recipes, recipe_from_json, recipe_to_json

WRONG = [
    dict(lr='fast'), dict(flip=1), dict(size=True), dict(schedule='cosine'), dict(label_smoothing=1.0),
    dict(patience=0), dict(epochs=2.5), dict(average=1.0), dict(cutmix=1.5), dict(multi_scale=2.), dict(attack=-1.),
    dict(window_share=-0.1), dict(window=40), dict(optimizer='sgd'), dict(optimizer='muon', pretrained=True),
    dict(outputs=3), dict(objects=True, outputs=1), dict(head='own', schedule='fine_tune'), dict(dropout=1.),
    dict(lr=float('nan')), dict(wd=float('inf')), dict(rotate=200.), dict(zoom=1.), dict(model_args=[1]),
    dict(epochs=0), dict(bs='many'), dict(optimizer='muon', schedule='fine_tune'), dict(head='own', train_last=3),
    dict(name=1)]
OURS = 'quick', 'fast', 'robust', 'vit'


@pytest.mark.parametrize('wrong', WRONG, ids=str)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(wrong):
    with pytest.raises(ValueError, match=f'`{next(iter(wrong))}` of recipe'):
        Recipe(**{'name': 'mine', 'arch': 'cifakenet', **wrong})


@pytest.mark.parametrize('wrong, words', [
    (dict(epochs=0), 'has to be at least 1'), (dict(bs='many'), 'has to be of type int'),
    (dict(rotate=200.), 'has to be at most 180'), (dict(zoom=1.), 'has to be under 1'),
    (dict(lr=float('nan')), 'has to be a finite number'), (dict(schedule='cosine'), 'one_cycle or fine_tune'),
    (dict(flip=1), 'of type bool'), (dict(window=40), 'images are 32 pixels wide')])
def test_the_error_says_what_the_value_has_to_be(wrong, words):
    with pytest.raises(ValueError, match=words): Recipe('mine', 'cifakenet', **wrong)


def test_an_integer_is_a_number_and_some_fields_may_be_none():
    assert Recipe('mine', 'cifakenet', lr=1, patience=None).lr == 1
    assert Recipe('mine', 'cifakenet', label_smoothing=0, rotate=180.).rotate == 180


def test_a_recipe_cannot_be_changed():
    with pytest.raises(FrozenInstanceError): Recipe('mine', 'cifakenet').bs = 3


def test_arguments_of_the_network_are_kept():
    assert Recipe('a', 'mlp', model_args=dict(hidden=(64,))).model_args == dict(hidden=(64,))
    assert Recipe('a', 'mlp').model_args == {}


def test_overrides_make_another_recipe():
    mine = get_recipe('quick', epochs=3, shift=2)
    assert (mine.epochs, mine.shift) == (3, 2)
    assert RECIPES['quick'].shift == 1
    assert get_recipe(mine, epochs=4).epochs == 4


def test_the_default_stands_first():
    assert list_recipes()[0] == 'quick' == get_recipe().name


@pytest.mark.parametrize('name', list_recipes())
def test_a_recipe_says_what_it_is_and_where_it_comes_from(name):
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.note
    assert name in OURS or recipe.source and recipe.reported and recipe.deviations


@pytest.mark.parametrize('name', [o for o in list_recipes() if o.endswith('-32')])
def test_the_small_version_of_a_recipe_differs_in_size_alone(name):
    small, large = (asdict(get_recipe(o)) for o in (name, name.removesuffix('-32')))
    differ = {k for k in small if small[k] != large[k]}
    assert differ == {'name', 'note', 'size', 'deviations'} and (small['size'], large['size']) == (32, 224)


def test_all_of_cifake_leaves_a_recipe_as_it_is():
    assert fit_to(get_recipe('quick'), 90_000) == get_recipe('quick')


@pytest.mark.parametrize('n', [1, 100, 1_800, 10_000])
def test_small_sets_still_train_for_enough_steps(n):
    quick = get_recipe('quick')
    fitted = fit_to(quick, n)
    assert 16 <= fitted.bs <= quick.bs and fitted.epochs*max(1, n//fitted.bs) >= quick.min_steps


def test_json_is_read_back():
    mine = get_recipe('quick', epochs=3, model_args=dict(widths=[8, 8, 8]))
    assert recipe_from_json(recipe_to_json(mine)) == mine
    assert recipe_from_json(json.dumps({'recipe': asdict(mine), 'seed': 3})) == mine  # the file of a run


@pytest.mark.parametrize('text, words', [
    ('[1]', 'JSON object'), ('{"recipe": "quick"}', 'JSON object'), ('{"name": ', 'JSON object'),
    ('{"name": "a", "arch": "lenet", "bs": "many"}', '`bs` of recipe'),
    ('{"name": "a", "arch": "lenet", "lr": NaN}', 'finite'), ('{"name": "a"}', "no 'arch'"),
    ('{"name": "a", "arch": "lenet", "learning_rate": 1}', "no field 'learning_rate'")])
def test_a_file_that_is_no_recipe_is_refused(text, words):
    with pytest.raises(ValueError, match=words): recipe_from_json(text)


@pytest.mark.parametrize('number', [np.int64, np.int16, torch.tensor], ids=lambda kind: kind.__name__)
def test_numbers_of_other_libraries_are_fields(number):
    recipe = get_recipe('quick', bs=number(64), lr=number(1), size=number(48))
    assert (recipe.bs, recipe.size, type(recipe.bs)) == (64, 48, int)
    assert recipe_from_json(recipe_to_json(recipe)) == recipe


def test_text_in_place_of_a_number_is_refused():
    with pytest.raises(ValueError, match="`bs` of recipe 'quick' is '64': it has to be of type int"):
        get_recipe('quick', bs='64')
