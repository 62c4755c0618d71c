//! The facts of the Tiny World: 80 things, five facts about each.

/// The category of a thing, which decides its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Has a kind, a colour, a size, a place, a diet.
    Animal,
    /// Has a kind, a colour, a size, a place, a taste.
    Food,
    /// Has a material, a colour, a size, a place, a use.
    Tool,
}

/// What a fact is about. No word is a value of two attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// beast, bird, fruit, …
    Kind,
    /// wood, iron, …
    Material,
    /// red, blue, …
    Colour,
    /// tiny, small, large, huge
    Size,
    /// forest, kitchen, …
    Place,
    /// What an animal eats: grass, seeds, …
    Diet,
    /// sweet, sour, …
    Taste,
    /// What a tool is for: cutting, digging, …
    Use,
}

/// The sizes in ascending order, for comparisons.
pub const SIZES: [&str; 4] = ["tiny", "small", "large", "huge"];

impl Category {
    /// The attributes of its things, in the order of [`Thing::values`].
    pub const fn attributes(self) -> [Attribute; 5] {
        use Attribute::{Colour, Diet, Kind, Material, Place, Size, Taste, Use};
        match self {
            Category::Animal => [Kind, Colour, Size, Place, Diet],
            Category::Food => [Kind, Colour, Size, Place, Taste],
            Category::Tool => [Material, Colour, Size, Place, Use],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Category::Animal => "animal",
            Category::Food => "food",
            Category::Tool => "tool",
        }
    }
}

impl Attribute {
    /// All of them.
    pub const ALL: [Attribute; 8] = [
        Attribute::Kind,
        Attribute::Material,
        Attribute::Colour,
        Attribute::Size,
        Attribute::Place,
        Attribute::Diet,
        Attribute::Taste,
        Attribute::Use,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Attribute::Kind => "kind",
            Attribute::Material => "material",
            Attribute::Colour => "colour",
            Attribute::Size => "size",
            Attribute::Place => "place",
            Attribute::Diet => "diet",
            Attribute::Taste => "taste",
            Attribute::Use => "use",
        }
    }

    /// Made-up values, true of no thing.
    pub const fn made_up(self) -> [&'static str; 3] {
        match self {
            Attribute::Kind => ["ghost", "dragon", "robot"],
            Attribute::Material => ["moonlight", "thunder", "smoke"],
            Attribute::Colour => ["invisible", "glowing", "sparkling"],
            Attribute::Size => ["endless", "weightless", "infinite"],
            Attribute::Place => ["moon", "volcano", "sky"],
            Attribute::Diet => ["dreams", "fire", "shadows"],
            Attribute::Taste => ["magical", "electric", "cursed"],
            Attribute::Use => ["flying", "haunting", "wishing"],
        }
    }

    /// Its values among the things of a category (or of all), in alphabetical order.
    pub fn values(self, category: Option<Category>) -> Vec<&'static str> {
        let mut values: Vec<_> = THINGS
            .iter()
            .filter(|thing| category.is_none_or(|category| thing.category == category))
            .filter_map(|thing| thing.get(self))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

/// A thing of the world.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Thing {
    /// Its name, one word.
    pub name: &'static str,
    /// Its category.
    pub category: Category,
    /// Its facts, in the order of [`Category::attributes`].
    pub values: [&'static str; 5],
}

impl Thing {
    /// Its value of an attribute; `None` if things of its category have no such attribute.
    pub fn get(&self, attribute: Attribute) -> Option<&'static str> {
        let attributes = self.category.attributes();
        let at = attributes.iter().position(|&a| a == attribute)?;
        Some(self.values[at])
    }

    /// The facts about it.
    pub fn facts(&self) -> impl Iterator<Item = (Attribute, &'static str)> {
        self.category.attributes().into_iter().zip(self.values)
    }

    /// Its size as an index into [`SIZES`].
    pub fn size(&self) -> Option<usize> {
        let size = self.get(Attribute::Size)?;
        SIZES.iter().position(|&s| s == size)
    }
}

const fn animal(name: &'static str, values: [&'static str; 5]) -> Thing {
    Thing {
        name,
        category: Category::Animal,
        values,
    }
}

const fn food(name: &'static str, values: [&'static str; 5]) -> Thing {
    Thing {
        name,
        category: Category::Food,
        values,
    }
}

const fn tool(name: &'static str, values: [&'static str; 5]) -> Thing {
    Thing {
        name,
        category: Category::Tool,
        values,
    }
}

/// All things.
#[rustfmt::skip] // a table: one thing per line
pub static THINGS: [Thing; 80] = [
    animal("fox", ["beast", "red", "small", "forest", "meat"]),
    animal("bear", ["beast", "brown", "large", "cave", "roots"]),
    animal("wolf", ["beast", "grey", "large", "mountain", "meat"]),
    animal("rabbit", ["beast", "white", "small", "field", "grass"]),
    animal("mouse", ["beast", "brown", "tiny", "field", "seeds"]),
    animal("deer", ["beast", "brown", "large", "forest", "leaves"]),
    animal("elephant", ["beast", "grey", "huge", "jungle", "leaves"]),
    animal("camel", ["beast", "yellow", "large", "desert", "grass"]),
    animal("goat", ["beast", "white", "large", "mountain", "grass"]),
    animal("otter", ["beast", "brown", "small", "river", "shrimp"]),
    animal("bat", ["beast", "black", "tiny", "cave", "flies"]),
    animal("whale", ["beast", "blue", "huge", "sea", "shrimp"]),
    animal("squirrel", ["beast", "red", "small", "forest", "nuts"]),
    animal("owl", ["bird", "brown", "small", "forest", "meat"]),
    animal("eagle", ["bird", "black", "large", "mountain", "meat"]),
    animal("robin", ["bird", "red", "tiny", "garden", "worms"]),
    animal("duck", ["bird", "green", "small", "lake", "seeds"]),
    animal("crow", ["bird", "black", "small", "field", "eggs"]),
    animal("swan", ["bird", "white", "large", "lake", "roots"]),
    animal("parrot", ["bird", "green", "small", "jungle", "nuts"]),
    animal("penguin", ["bird", "black", "large", "sea", "shrimp"]),
    animal("salmon", ["fish", "pink", "small", "river", "flies"]),
    animal("trout", ["fish", "green", "small", "lake", "worms"]),
    animal("shark", ["fish", "grey", "huge", "sea", "meat"]),
    animal("tuna", ["fish", "blue", "large", "sea", "shrimp"]),
    animal("ant", ["insect", "black", "tiny", "forest", "seeds"]),
    animal("beetle", ["insect", "green", "tiny", "desert", "leaves"]),
    animal("moth", ["insect", "grey", "tiny", "cave", "leaves"]),
    animal("wasp", ["insect", "yellow", "tiny", "orchard", "eggs"]),
    animal("snake", ["reptile", "green", "small", "desert", "eggs"]),
    animal("lizard", ["reptile", "pink", "tiny", "desert", "flies"]),
    animal("turtle", ["reptile", "brown", "large", "swamp", "roots"]),
    food("apple", ["fruit", "red", "small", "orchard", "sweet"]),
    food("banana", ["fruit", "yellow", "large", "jungle", "sweet"]),
    food("lemon", ["fruit", "yellow", "small", "orchard", "sour"]),
    food("grape", ["fruit", "purple", "tiny", "garden", "sweet"]),
    food("cherry", ["fruit", "red", "tiny", "orchard", "sour"]),
    food("melon", ["fruit", "green", "huge", "farm", "mild"]),
    food("olive", ["fruit", "black", "tiny", "market", "salty"]),
    food("potato", ["vegetable", "brown", "small", "field", "mild"]),
    food("onion", ["vegetable", "white", "small", "garden", "spicy"]),
    food("pepper", ["vegetable", "red", "small", "market", "spicy"]),
    food("cabbage", ["vegetable", "green", "large", "field", "bitter"]),
    food("pea", ["vegetable", "green", "tiny", "garden", "sweet"]),
    food("radish", ["vegetable", "pink", "tiny", "garden", "spicy"]),
    food("pumpkin", ["vegetable", "yellow", "huge", "farm", "mild"]),
    food("rice", ["grain", "white", "tiny", "swamp", "mild"]),
    food("wheat", ["grain", "brown", "tiny", "field", "bitter"]),
    food("corn", ["grain", "yellow", "small", "farm", "salty"]),
    food("cake", ["dessert", "pink", "large", "bakery", "sweet"]),
    food("pie", ["dessert", "purple", "large", "bakery", "sour"]),
    food("cookie", ["dessert", "brown", "small", "bakery", "salty"]),
    food("tea", ["drink", "green", "small", "kitchen", "bitter"]),
    food("coffee", ["drink", "black", "small", "kitchen", "bitter"]),
    food("milk", ["drink", "white", "large", "farm", "mild"]),
    food("juice", ["drink", "purple", "large", "market", "sour"]),
    tool("knife", ["iron", "grey", "small", "kitchen", "cutting"]),
    tool("spoon", ["wood", "brown", "small", "kitchen", "cooking"]),
    tool("pot", ["clay", "red", "large", "kitchen", "cooking"]),
    tool("pan", ["iron", "black", "large", "kitchen", "cooking"]),
    tool("jar", ["glass", "blue", "small", "cellar", "storing"]),
    tool("bottle", ["glass", "green", "small", "cellar", "storing"]),
    tool("barrel", ["wood", "brown", "huge", "cellar", "storing"]),
    tool("basket", ["wood", "yellow", "large", "market", "carrying"]),
    tool("bag", ["cloth", "blue", "large", "attic", "carrying"]),
    tool("hammer", ["iron", "black", "small", "shed", "building"]),
    tool("saw", ["iron", "grey", "large", "garage", "cutting"]),
    tool("shovel", ["iron", "blue", "large", "shed", "digging"]),
    tool("rake", ["plastic", "red", "large", "garden", "cleaning"]),
    tool("broom", ["wood", "yellow", "large", "attic", "cleaning"]),
    tool("brush", ["plastic", "purple", "tiny", "school", "painting"]),
    tool("pencil", ["wood", "yellow", "tiny", "school", "writing"]),
    tool("pen", ["plastic", "blue", "tiny", "school", "writing"]),
    tool("chalk", ["clay", "white", "tiny", "school", "painting"]),
    tool("ruler", ["plastic", "pink", "small", "school", "measuring"]),
    tool("needle", ["iron", "grey", "tiny", "attic", "sewing"]),
    tool("thread", ["cloth", "red", "tiny", "attic", "sewing"]),
    tool("axe", ["iron", "red", "large", "shed", "cutting"]),
    tool("bucket", ["plastic", "blue", "large", "garage", "carrying"]),
    tool("ladder", ["wood", "white", "huge", "garage", "building"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_word_is_one_name_or_one_value_of_one_attribute() {
        let mut meaning = BTreeMap::new();
        for thing in &THINGS {
            assert!(
                meaning.insert(thing.name, "name").is_none(),
                "{}",
                thing.name
            );
        }
        for attribute in Attribute::ALL {
            for value in attribute
                .values(None)
                .into_iter()
                .chain(attribute.made_up())
            {
                let before = meaning.insert(value, attribute.name());
                assert!(before.is_none(), "{value} is {before:?} and {attribute:?}");
            }
        }
    }

    #[test]
    fn every_attribute_has_a_wrong_value_in_every_category() {
        for category in [Category::Animal, Category::Food, Category::Tool] {
            for attribute in category.attributes() {
                assert!(attribute.values(Some(category)).len() >= 4, "{attribute:?}");
            }
        }
        assert!(THINGS.iter().all(|thing| thing.size().is_some()));
    }
}
