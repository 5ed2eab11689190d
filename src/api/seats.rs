//! Who is connected, and who goes for one more. Pure: what a seat's connection is is
//! its caller's (`T`).

use std::collections::BTreeMap;

/// The places on a socket.
#[derive(Debug)]
pub struct Seats<T> {
    /// So many there are.
    most: usize,
    /// So many one user may have.
    most_of_one: usize,
    next: u64,
    taken: BTreeMap<u64, Taken<T>>,
    /// Those that nothing is under way on, by when that began: the one that has been
    /// silent the longest comes first.
    silent: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Taken<T> {
    user: Option<u32>,
    /// Its key among the silent.
    silent_since: Option<u64>,
    connection: Option<T>,
}

/// What is said to one that comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// It has this seat; the connection that had to go for it, if one had to.
    Seat(u64, Option<T>),
    /// All seats are taken by those that something is under way on.
    Full,
    /// This user has as many as one may, and something is under way on all of them.
    TooMany,
}

impl<T> Seats<T> {
    /// So many seats, of which one user gets at most so many.
    pub fn new(most: usize, most_of_one: usize) -> Self {
        let (taken, silent) = (BTreeMap::new(), BTreeMap::new());
        Seats { most, most_of_one, next: 0, taken, silent }
    }

    /// One comes. `user` has a bound of its own, none has not.
    pub fn admit(&mut self, user: Option<u32>) -> Admission<T> {
        let is_theirs = |taken: &Taken<T>| user.is_some() && taken.user == user;
        let theirs = self.taken.values().filter(|taken| is_theirs(taken)).count();
        let goes = if theirs >= self.most_of_one {
            let mut silent = self.silent.values().copied();
            match silent.find(|key| self.taken.get(key).is_some_and(is_theirs)) {
                Some(key) => Some(key),
                None => return Admission::TooMany,
            }
        } else if self.taken.len() >= self.most {
            match self.silent.first_key_value() {
                Some((_, key)) => Some(*key),
                None => return Admission::Full,
            }
        } else {
            None
        };
        let gone = goes.and_then(|key| self.leave(key));
        self.next += 1;
        let key = self.next;
        let taken = Taken { user, silent_since: Some(key), connection: None };
        self.taken.insert(key, taken);
        self.silent.insert(key, key);
        Admission::Seat(key, gone)
    }

    /// What sits there.
    pub fn sit(&mut self, key: u64, connection: T) {
        if let Some(taken) = self.taken.get_mut(&key) {
            taken.connection = Some(connection);
        }
    }

    /// Something is under way on it.
    pub fn speak(&mut self, key: u64) {
        if let Some(taken) = self.taken.get_mut(&key)
            && let Some(since) = taken.silent_since.take()
        {
            self.silent.remove(&since);
        }
    }

    /// Nothing is under way on it any more.
    pub fn fall_silent(&mut self, key: u64) {
        self.speak(key);
        if let Some(taken) = self.taken.get_mut(&key) {
            self.next += 1;
            taken.silent_since = Some(self.next);
            self.silent.insert(self.next, key);
        }
    }

    /// It is free again.
    pub fn leave(&mut self, key: u64) -> Option<T> {
        let taken = self.taken.remove(&key)?;
        if let Some(since) = taken.silent_since {
            self.silent.remove(&since);
        }
        taken.connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat<T: std::fmt::Debug>(admission: Admission<T>) -> (u64, Option<T>) {
        match admission {
            Admission::Seat(key, gone) => (key, gone),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_has_been_silent_the_longest_goes_first() {
        let mut seats = Seats::new(3, 3);
        let keys: Vec<u64> = ["a", "b", "c"]
            .map(|name| {
                let (key, gone) = seat(seats.admit(None));
                assert_eq!(gone, None);
                seats.sit(key, name);
                key
            })
            .to_vec();
        // The first one asks, is answered, and is silent again: the second is older then.
        seats.speak(keys[0]);
        seats.fall_silent(keys[0]);
        let (key, gone) = seat(seats.admit(None));
        assert_eq!(gone, Some("b"));
        seats.sit(key, "d");
        // What is under way is never ended for another.
        seats.speak(keys[2]);
        assert_eq!(seat(seats.admit(None)).1, Some("a"));
        for key in seats.taken.keys().copied().collect::<Vec<_>>() {
            seats.speak(key);
        }
        assert_eq!(seats.admit(None), Admission::Full);
        assert_eq!(seats.leave(keys[2]), Some("c"));
        assert_eq!(seat(seats.admit(None)).1, None);
    }

    #[test]
    fn one_user_does_not_take_the_seats_of_others() {
        let mut seats = Seats::new(4, 2);
        let (first, _) = seat(seats.admit(Some(7)));
        let (second, _) = seat(seats.admit(Some(7)));
        seats.sit(first, "first");
        seats.speak(second);
        let (other, _) = seat(seats.admit(Some(8)));
        seats.sit(other, "other");
        // Their own silent one goes, not another's, although there is room.
        let (third, gone) = seat(seats.admit(Some(7)));
        assert_eq!(gone, Some("first"));
        seats.speak(third);
        assert_eq!(seats.admit(Some(7)), Admission::TooMany);
        // Without a user there is no bound but that of all.
        assert_eq!(seat(seats.admit(None)).1, None);
        assert_eq!(seat(seats.admit(None)).1, Some("other"));
    }

    #[test]
    fn what_left_says_nothing_more() {
        let mut seats = Seats::new(2, 2);
        let (key, _) = seat(seats.admit(None));
        seats.sit(key, ());
        seats.leave(key);
        seats.fall_silent(key);
        seats.speak(key);
        assert!(seats.taken.is_empty() && seats.silent.is_empty());
    }
}
